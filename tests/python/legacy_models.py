"""Models of every kind of layer that has variables, and what Keras' legacy format makes of them."""
import os

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
from keras import layers


@keras.saving.register_keras_serializable("ckpt_legacy")
class Scale(layers.Layer):
    """A custom layer with a variable of either kind."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), name="count", trainable=False)
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")

    def call(self, x):
        return x * self.scale + self.count


def sequential(*stack, shape=(6, 4), dtype=None, name=None):
    return keras.Sequential([layers.Input(shape, dtype=dtype), *stack], name=name)


def dense():
    return sequential(layers.Dense(4, "relu"), layers.Dropout(0.1), layers.Dense(3), shape=(5,))


def recurrent():
    return sequential(layers.Embedding(11, 4), layers.LSTM(3, return_sequences=True), layers.GRU(5, dropout=0.1),
                      layers.LayerNormalization(), layers.Dense(2), shape=(6,), dtype="int32")


def nested():
    inner = sequential(layers.Dense(4, name="inner_dense"), shape=(4,), name="inner")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2)(inner(inner(x))))


def one_layer():
    return sequential(layers.Dense(1, name="größe ✓"), shape=(2,))


def bidirectional():
    return sequential(layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both"),
                      layers.Bidirectional(layers.GRU(2), backward_layer=layers.SimpleRNN(3, go_backwards=True)))


def stacked_cells():
    return sequential(layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)], return_sequences=True),
                      layers.RNN(layers.StackedRNNCells([layers.SimpleRNNCell(3), layers.SimpleRNNCell(2)])))


def single_cell():
    return sequential(layers.RNN(layers.GRUCell(3), return_sequences=True), layers.SimpleRNN(2, dropout=0.1))


def conv_lstm():
    return sequential(layers.ConvLSTM2D(3, 2), layers.BatchNormalization(), layers.Flatten(), shape=(4, 6, 6, 2))


def time_distributed():
    inner = keras.Sequential([layers.Dense(3), layers.BatchNormalization(), layers.Dense(2)])
    return sequential(layers.TimeDistributed(layers.Dense(5)), layers.TimeDistributed(inner))


def spectral():
    return sequential(layers.SpectralNormalization(layers.Conv2D(3, 2)), layers.SpectralNormalization(layers.Dense(3)),
                      shape=(6, 6, 2))


def attention():
    a, b = keras.Input((6, 4)), keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 3, dropout=0.1)(a, b)
    x = layers.MultiHeadAttention(2, 3, use_bias=False, name="second")(x, x)
    x = layers.GroupQueryAttention(4, 4, 2)(x, x)
    x = layers.AdditiveAttention()([x, x])
    x = layers.Attention(use_scale=True, score_mode="concat")([x, x])
    return keras.Model([a, b], x)


def gated_attention():
    a = keras.Input((6, 4))
    x = layers.MultiHeadAttention(2, 3, use_gate=True)(a, a)
    return keras.Model(a, layers.GroupQueryAttention(4, 4, 2, use_gate=True)(x, x))


def normalizations():
    return sequential(layers.Normalization(), layers.Dense(3), layers.PReLU(), layers.LayerNormalization(),
                      layers.UnitNormalization(), layers.RMSNormalization(), layers.GroupNormalization(1),
                      layers.LayerNormalization(scale=False), layers.BatchNormalization(center=False, scale=False),
                      layers.EinsumDense("bij,jk->bik", (6, 3), bias_axes="k"))


def images():
    return sequential(layers.RandomFlip(), layers.Rescaling(2.0), layers.Conv2D(2, 1, use_bias=False),
                      layers.SeparableConv2D(2, 1), layers.DepthwiseConv2D(1), layers.Conv2DTranspose(2, 1),
                      layers.GaussianNoise(0.1), layers.Conv2D(3, 1), shape=(4, 4, 2))


def sequences():
    return sequential(layers.Embedding(10, 3), layers.Conv1D(4, 2), layers.SeparableConv1D(3, 2), layers.Dropout(0.1),
                      layers.Conv1DTranspose(2, 2), layers.Dense(2), shape=(7,), dtype="int32")


def volumes():
    return sequential(layers.Conv3D(2, 2), layers.Conv3DTranspose(3, 2), layers.BatchNormalization(axis=-1),
                      shape=(4, 4, 4, 1))


def frozen():
    model = sequential(layers.Dense(4), layers.BatchNormalization(), layers.Dense(3), layers.Dense(2), shape=(4,))
    model.layers[0].trainable = False
    model.layers[1].trainable = False
    return model


def nested_and_frozen():
    first = sequential(layers.Dense(4, name="d0"), layers.BatchNormalization(), layers.Dropout(0.1), layers.Dense(4),
                       shape=(4,), name="first")
    first.layers[0].trainable = False
    i = keras.Input((4,))
    middle = keras.Model(i, layers.Dense(3)(first(layers.Dense(4)(i))), name="middle")
    whole = sequential(layers.Dense(4), layers.BatchNormalization(), layers.Dense(3), shape=(3,), name="whole")
    whole.trainable = False
    a = keras.Input((4,))
    return keras.Model(a, layers.Dense(1)(whole(middle(a))))


def same_names():
    """Layers that are called alike in two models."""
    def part(name):
        return sequential(layers.Dense(4, name="a"), layers.Dense(4, name="b"), shape=(4,), name=name)
    i = keras.Input((4,))
    one = keras.Model(i, part("left")(i), name="one")
    return keras.Model(i, layers.Add()([one(i), part("right")(i)]))


def nested_recurrent():
    inner = sequential(layers.Bidirectional(layers.LSTM(2, return_sequences=True)), layers.LayerNormalization(),
                       layers.MaxPooling1D(2), layers.TimeDistributed(layers.Dense(3)), layers.GRU(2), name="inner")
    a = keras.Input((6, 4))
    return keras.Model(a, layers.Dense(1)(inner(a)))


def nested_attention():
    i = keras.Input((6, 4))
    block = keras.Model(i, layers.LayerNormalization()(layers.Add()([i, layers.MultiHeadAttention(2, 3)(i, i)])))
    x = keras.Input((6, 4))
    return keras.Model(x, layers.GlobalAveragePooling1D()(block(x)))


def custom():
    return sequential(Scale(), layers.Dense(3), Scale(), shape=(4,))


def branches():
    a, b = keras.Input((4,), name="z"), keras.Input((4,), name="a")
    shared = layers.Dense(3, name="shared")
    x = layers.Concatenate()([shared(a), shared(b), layers.Dense(2, name="aa")(b)])
    return keras.Model({"one": a, "two": b}, {"x": layers.Dense(1)(x), "y": layers.Dense(2)(x)})


def mixed_precision():
    return sequential(layers.Dense(3, dtype="mixed_float16"), layers.Dense(3, dtype="float16"),
                      layers.Dense(2, dtype="float64"), shape=(4,))


def quantized(mode, config=None):
    """Every layer that Keras quantizes, with a bias and without, in a model too, and one that is not trained."""
    x = keras.Input((6, 8))
    inner = keras.Model(x, layers.EinsumDense("bij,jk->bik", (6, 8), bias_axes="k")(
        layers.Dense(8)(layers.LayerNormalization()(layers.Dense(8, use_bias=False)(x)))), name="inner")
    tokens = keras.Input((6,), dtype="int32")
    words = layers.ReversibleEmbedding(13, 8, tie_weights=False)
    x = layers.EinsumDense("bij,jk->bik", (6, 8))(inner(layers.Embedding(13, 8)(tokens)))
    x = layers.TimeDistributed(layers.Dense(8))(layers.Dense(8, trainable=False)(x))
    x = layers.Add()([x, words(tokens)])
    model = keras.Model(tokens, words(x, reverse=True))
    for layer in [*model.layers, *inner.layers]:
        layer = layer.layer if isinstance(layer, layers.TimeDistributed) else layer
        if isinstance(layer, (layers.Dense, layers.EinsumDense, layers.Embedding)):
            layer.quantize(mode, config=config)
    return model


def quantized_int8():
    return quantized("int8")


def quantized_int4():
    return quantized("int4", keras.quantizers.Int4QuantizationConfig(block_size=None))


def quantized_int4_in_blocks():
    return quantized("int4", keras.quantizers.Int4QuantizationConfig(block_size=4))


def quantized_float8():
    x = keras.Input((4,))
    inner = keras.Model(x, layers.Dense(3, use_bias=False)(layers.Dense(4)(x)))
    inner.quantize("float8")
    return keras.Model(x, layers.Dense(1)(inner(x)))


def mobile_net():
    return keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=3)


MODELS = [dense, recurrent, nested, one_layer, bidirectional, stacked_cells, single_cell,
          conv_lstm, time_distributed, spectral, attention, gated_attention, normalizations, images, sequences, volumes,
          frozen, nested_and_frozen, same_names, nested_recurrent, nested_attention, custom, branches, mixed_precision,
          quantized_int8, quantized_int4, quantized_int4_in_blocks, quantized_float8, mobile_net]


def build(make):
    """A compiled model whose variables all have other values."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(optimizer=keras.optimizers.AdamW(1e-3), loss="mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(2)
    for k, v in enumerate(variables(model)):
        drawn = np.abs(rng.standard_normal(v.shape)) if "float" in str(v.dtype) else np.full(v.shape, k + 100)
        if v.name == "g_idx":  # numbers of blocks of a kernel
            drawn %= 1
        v.assign(np.asarray(drawn).astype(str(v.dtype)))
    return model


def variables(model):
    return [*model.weights, *model.optimizer.variables]


def values(model):
    return [np.asarray(v.value) for v in variables(model)]


def as_h5(path):
    """What a file of the weights holds: {path: array} and {group: name}."""
    tensors, names = {}, {}

    def visit(path, node):
        if isinstance(node, h5py.Dataset):
            tensors[path] = np.asarray(node[()], order="C")
        elif "name" in node.attrs:
            names[path.removesuffix("vars").removesuffix("/")] = node.attrs["name"]
    with h5py.File(path) as f:
        f.visititems(visit)
    return tensors, names


def attribute(group, name):
    """A list of names in the attributes of a group, which may be split."""
    if name in group.attrs:
        parts = [group.attrs[name]]
    else:
        parts = [group.attrs[f"{name}{i}"] for i in range(len(group.attrs)) if f"{name}{i}" in group.attrs]
    return [n.decode() if isinstance(n, bytes) else n for part in parts for n in part]


def weights(path):
    """The weights of a legacy file in its order: [(layer, name, array)]."""
    with h5py.File(path) as f:
        group = f["model_weights"]
        return [(layer, name, np.asarray(group[layer][name])) for layer in attribute(group, "layer_names")
                for name in attribute(group[layer], "weight_names")]


def legacy_order(tensors, path):
    """The paths of the layers' tensors in the order of Keras' own legacy file, by their values, which are unique but
    for what Keras has twice."""
    values = {}
    for name, a in tensors.items():
        if name.startswith("layers/"):
            values.setdefault((a.shape, a.dtype, a.tobytes()), []).append(name)
    return [max(values[a.shape, a.dtype, a.tobytes()], key=len) for _, _, a in weights(path)]
