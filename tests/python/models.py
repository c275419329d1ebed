"""A zoo of small Keras models, one for each way in which Keras nests, shares, names or types its variables.

`build(name)` gives a model with an optimizer, its variables at random values; `saved(model)` what Keras would put into a
file, by path. Nothing here sets a backend: KERAS_BACKEND does.
"""
import itertools

import h5py
import keras
import numpy as np
from keras import layers, optimizers
from keras.src.legacy.saving import legacy_h5_format
from keras.src.saving import saving_lib

MODELS = {}


def model(optimizer=lambda: optimizers.Adam(1e-2)):
    """Puts a model into the zoo, to be trained with this optimizer."""
    def register(make):
        MODELS[make.__name__] = make, optimizer
        return make
    return register


@model()
def dense():
    return keras.Sequential([layers.Input((5,)), layers.Dense(4, "relu"), layers.Dense(3), layers.Dense(2, use_bias=False)])


@model(lambda: optimizers.SGD(1e-2, momentum=0.9, nesterov=True))
def convolutional_1d():
    return keras.Sequential([layers.Input((9, 3)), layers.Conv1D(4, 3, padding="causal"), layers.MaxPooling1D(2),
                             layers.Conv1DTranspose(3, 2), layers.SeparableConv1D(4, 2), layers.DepthwiseConv1D(2),
                             layers.GlobalMaxPooling1D(), layers.Dense(2)])


@model(lambda: optimizers.RMSprop(1e-3, momentum=0.5, centered=True))
def convolutional_2d():
    return keras.Sequential([layers.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(),
                             layers.ReLU(), layers.Conv2D(4, 3, groups=2), layers.GlobalAveragePooling2D(), layers.Flatten(),
                             layers.Dense(2)])


@model()
def transposed():
    return keras.Sequential([layers.Input((4, 4, 2)), layers.Conv2DTranspose(3, 3, strides=2), layers.UpSampling2D(),
                             layers.Conv2DTranspose(1, 2, use_bias=False)])


@model()
def convolutional_3d():
    return keras.Sequential([layers.Input((4, 4, 4, 1)), layers.Conv3D(2, 2), layers.Conv3DTranspose(1, 2)])


@model(lambda: optimizers.Adagrad(1e-2))
def depthwise():
    return keras.Sequential([layers.Input((6, 6, 3)), layers.DepthwiseConv2D(3, depth_multiplier=2),
                             layers.BatchNormalization(center=False), layers.Conv2D(2, 1)])


@model(lambda: optimizers.AdamW(1e-3, weight_decay=0.01))
def separable():
    return keras.Sequential([layers.Input((6, 6, 3)), layers.SeparableConv2D(4, 3, name="trennbar_ö ✓"),
                             layers.GlobalAveragePooling2D(), layers.Dense(2)])


@model(lambda: optimizers.Nadam(1e-3))
def lstm():
    return keras.Sequential([layers.Input((4, 3)), layers.LSTM(3, return_sequences=True), layers.LSTM(2), layers.Dense(1)])


@model(lambda: optimizers.Adamax(1e-3))
def gru():
    return keras.Sequential([layers.Input((4, 3)), layers.GRU(3, return_sequences=True),
                             layers.GRU(2, reset_after=False, go_backwards=True), layers.Dense(1)])


@model()
def simple_rnn():
    return keras.Sequential([layers.Input((4, 3)), layers.SimpleRNN(3, return_sequences=True), layers.SimpleRNN(2)])


@model()
def stacked_cells():
    cells = [layers.LSTMCell(3), layers.GRUCell(2), layers.SimpleRNNCell(2)]
    return keras.Sequential([layers.Input((4, 3)), layers.RNN(cells), layers.Dense(1)])


@model()
def bidirectional():
    return keras.Sequential([layers.Input((6,), dtype="int32"), layers.Embedding(11, 4, mask_zero=True),
                             layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
                             layers.Bidirectional(layers.GRU(2), backward_layer=layers.LSTM(2, go_backwards=True)),
                             layers.Dense(2)])


@model(lambda: optimizers.Adafactor(1e-2))
def embedding():
    tokens = keras.Input((6,), dtype="int32")
    shared = layers.ReversibleEmbedding(11, 4, tie_weights=True)
    x = shared(tokens)
    x = layers.Dense(4, "gelu")(x)
    return keras.Model(tokens, shared(x, reverse=True))


@model(lambda: optimizers.Lion(1e-3))
def attention():
    q, v = keras.Input((3, 4), name="q"), keras.Input((5, 4), name="v")
    x = layers.MultiHeadAttention(2, 3)(q, v)
    x = layers.Attention(use_scale=True)([x, v])
    x = layers.AdditiveAttention()([x, v])
    return keras.Model([q, v], layers.Dense(2)(x))


@model()
def grouped_attention():
    x = keras.Input((3, 4))
    y = layers.GroupQueryAttention(head_dim=2, num_query_heads=4, num_key_value_heads=2)(x, x)
    return keras.Model(x, layers.Dense(1)(layers.LayerNormalization()(layers.Add()([x, y]))))


@model()
def nested():
    innermost = keras.Sequential([layers.Input((4,)), layers.Dense(4), layers.Dense(3)], name="innermost")
    x = keras.Input((4,))
    middle = keras.Model(x, layers.Dense(4)(innermost(layers.Dense(4)(x))), name="middle")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2)(middle(x)))


@model()
def nested_normalized():
    """In the legacy format all trainable weights of the inner model come before the others."""
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(3),
                              layers.BatchNormalization()], name="inner")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2)(layers.BatchNormalization()(inner(x))))


@model(lambda: optimizers.Ftrl(1e-2))
def several():
    a, b = keras.Input((4,), name="a"), keras.Input((6, 4), name="b")
    x = layers.Concatenate()([a, layers.GlobalAveragePooling1D()(b)])
    x = layers.Dense(5, "tanh")(x)
    return keras.Model({"a": a, "b": b}, {"left": layers.Dense(1, name="left")(x), "right": layers.Dense(2, name="right")(x)})


@model(lambda: optimizers.LossScaleOptimizer(optimizers.Adam(1e-2)))
def mixed_float16():
    """An optimizer in an optimizer. (Wrapped by Keras itself, it comes back from Keras' own .keras file unwrapped.)"""
    with policy("mixed_float16"):
        return keras.Sequential([layers.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(2)])


@model()
def low_precision():
    return keras.Sequential([layers.Input((4,)), layers.Dense(3, dtype="mixed_bfloat16"), layers.Dense(3, dtype="bfloat16"),
                             layers.Dense(2, dtype="float16"), layers.Dense(2)])


@model()
def double_precision():
    return keras.Sequential([layers.Input((4,), dtype="float64"), layers.Dense(3, dtype="float64"), layers.Dense(2)])


@model(lambda: optimizers.SGD(optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5), momentum=0.9))
def mobilenet():
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)


@model()
def normalizations():
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(3).standard_normal((20, 4)).astype("float32") * 3 + 1)
    return keras.Sequential([layers.Input((5, 4)), adapted, layers.LayerNormalization(), layers.GroupNormalization(2),
                             layers.UnitNormalization(), layers.RMSNormalization(), layers.Dense(4),
                             layers.BatchNormalization(scale=False)])


@model()
def noise():
    """A seed generator for each: layers with a state that is not a weight."""
    return keras.Sequential([layers.Input((6, 4)), layers.Dense(4), layers.Dropout(0.3, seed=1), layers.GaussianNoise(0.2),
                             layers.SpatialDropout1D(0.2), layers.GaussianDropout(0.1), layers.AlphaDropout(0.1),
                             layers.GRU(3, dropout=0.2, recurrent_dropout=0.2), layers.Dense(1)])


@model()
def time_distributed():
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(3)], name="each")
    return keras.Sequential([layers.Input((3, 4)), layers.TimeDistributed(layers.Dense(4)), layers.TimeDistributed(inner)])


@model()
def conv_lstm():
    return keras.Sequential([layers.Input((3, 4, 4, 1)), layers.ConvLSTM2D(2, 2, return_sequences=True),
                             layers.ConvLSTM2D(1, 2)])


@keras.saving.register_keras_serializable("ckpt_tests")
class Blocks(layers.Layer):
    """A layer with variables of its own, and sublayers in lists and dictionaries that are in each other."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4)
        self.many = [layers.Dense(4), [layers.Dense(4), layers.LayerNormalization()]]
        self.named = {"b": layers.Dense(4), "a": {"deep": layers.Dense(4), "list": [layers.Dense(4)]}}
        self.normal = layers.BatchNormalization()

    def build(self, shape):
        self.scale = self.add_weight(shape=(4,), name="scale")
        self.steps = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="steps")
        self.flag = self.add_weight(shape=(3,), dtype="bool", initializer="zeros", trainable=False, name="flag")
        for layer in self.chain():
            layer.build(shape)

    def chain(self):
        return [self.first, self.many[0], *self.many[1], self.named["b"], self.named["a"]["deep"], *self.named["a"]["list"],
                self.normal]

    def call(self, x, training=False):
        for layer in self.chain():
            x = layer(x, training=training) if layer is self.normal else layer(x)
        return x * self.scale


@model()
def containers():
    return keras.Sequential([layers.Input((4,)), Blocks(), layers.Dense(4), Blocks()])


@model()
def shared():
    twice, x, y = layers.Dense(4), keras.Input((4,)), keras.Input((4,))
    return keras.Model([x, y], layers.Dense(1)(layers.Subtract()([twice(twice(x)), twice(y)])))


@model(lambda: optimizers.Adam(1e-2, amsgrad=True, use_ema=True, ema_momentum=0.9))
def einsum():
    return keras.Sequential([layers.Input((3, 4)), layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
                             layers.PReLU(shared_axes=[1]), layers.Reshape((3, 6)),
                             layers.SpectralNormalization(layers.Dense(4)), layers.Dense(1)])


@model(lambda: optimizers.Adadelta(1e-1))
def frozen():
    """Some weights are not trained: they come last in the legacy format, and have no place in the optimizer."""
    model = keras.Sequential([layers.Input((4,)), layers.Dense(4), layers.Dense(4, trainable=False),
                              layers.BatchNormalization(), layers.Dense(2)])
    model.layers[0].trainable = False
    return model


@keras.saving.register_keras_serializable("ckpt_tests")
class Subclassed(keras.Model):
    """A model whose layers are its attributes, and which has a weight of its own."""

    specs = keras.KerasTensor((None, 4)), keras.KerasTensor((None, 2))

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4)
        self.blocks = [layers.Dense(4, "relu"), layers.LayerNormalization(), layers.Dense(4)]
        self._last = layers.Dense(2)

    def build(self, shape):
        self.scale = self.add_weight(shape=(4,), name="scale")
        for layer in [self.first, *self.blocks, self._last]:
            layer.build((None, 4))

    def call(self, x):
        x = self.first(x)
        for layer in self.blocks:
            x = layer(x)
        return self._last(x * self.scale)


@model()
def subclassed():
    model = Subclassed()
    model.build((None, 4))
    return model


@model()
def quantized():
    """Kernels of int8 with their scales, which are not trained; the rest is."""
    x = keras.Input((8,))
    inner = keras.Model(x, layers.Dense(4)(layers.Dense(6, "relu")(x)))
    inner.quantize("int8")
    x = keras.Input((8,))
    return keras.Model(x, layers.Dense(2)(inner(x)))


class policy:
    """The dtype policy of the layers that are made under it."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.name)

    def __exit__(self, *_):
        keras.config.set_dtype_policy(self.before)


def build(name):
    """The model of this name, ready to be trained."""
    make, optimizer = MODELS[name]
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(optimizer=optimizer(), loss=keras.losses.MeanSquaredError(), jit_compile=False if keras.backend.backend() == "numpy" else "auto")
    model.optimizer.build(model.trainable_variables)
    return model


def variables(model):
    """What Keras saves: the seed generators' states are not among it."""
    return [*model.weights, *model.optimizer.variables]


def config(model):
    """The config.json of a .keras file."""
    return saving_lib._serialize_model_as_json(model)[0]


def randomize(model, seed):
    """Gives every variable a value that no initializer gives; positive, since some are variances."""
    rng = np.random.default_rng(seed)
    for v in variables(model):
        kind = str(v.dtype)
        if "float" in kind:
            value = np.abs(rng.standard_normal(v.shape)).astype("float64" if kind == "float64" else "float32")
        else:
            value = rng.integers(0, 2 if kind == "bool" else 100, v.shape).astype(kind)
        v.assign(value)


def values(model):
    """Every variable's value, by its place and path."""
    return {f"{i} {v.path}": keras.ops.convert_to_numpy(v) for i, v in enumerate(variables(model))}


def load(path):
    """keras.models.load_model(), with the state of the optimizer.

    Of a legacy file Keras 3 does not set it: it builds the optimizer for `model._trainable_variables`, and models whose
    layers hold the variables have none there. (Nor does `set_weights` set what an inner optimizer has.) So it is done here.
    """
    model = keras.models.load_model(path)
    if str(path).endswith(".h5"):
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        optimizer.build(model.trainable_variables)
        with h5py.File(path) as file:
            state = legacy_h5_format.load_optimizer_weights_from_hdf5_group(file)
            for variable, value in zip(optimizer.variables, state, strict=True):
                variable.assign(np.asarray(value))
        model.compile(optimizer, model.loss, jit_compile=model.jit_compile)
    return model


class Recorder(saving_lib.H5IOStore):
    """Takes what Keras saves, in place of an HDF5 file."""

    def __init__(self):
        self.tensors, self.names = {}, {}

    def __bool__(self):
        return True

    def make(self, path, metadata=None):
        self.vars = f"{path}/vars" if path else "vars"
        if metadata:
            self.names[path] = metadata["name"]
        return self

    def __setitem__(self, key, value):
        self.tensors[f"{self.vars}/{key}"] = value


def saved(model):
    """What Keras saves of a model: {path: array} and {group: name}.

    Layers come as the model lists them, in a layer the trainable weights first: the order that the legacy format needs.
    """
    store = Recorder()
    saving_lib._save_state(model, store, None, "", set())
    legacy = itertools.chain(*(layer.trainable_weights + layer.non_trainable_weights for layer in model.layers))
    order = {id(v): i for i, v in enumerate(legacy)}
    paths = sorted(store.tensors, key=lambda path: order.get(id(store.tensors[path]), len(order)))
    return {path: keras.ops.convert_to_numpy(store.tensors[path]) for path in paths}, store.names
