"""A model that ckpt_keras_* describes is the one that Keras makes of the same layers: its configuration, its variables,
its predictions, and the training that goes on from its optimizer's state."""
import json
import os
import sys
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest

from capi import Failure
from in_jax import run
from keras_builder import Builder, config_of, lib

rng = np.random.default_rng(6)

L2 = {"module": "keras.regularizers", "class_name": "L2", "config": {"l2": 0.5}, "registered_name": None}
FLOAT64 = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float64"}, "registered_name": None}
EVERY = {"trainable": False, "dtype": FLOAT64, "activity_regularizer": L2, "name": "mine"}
OF_KERNEL = {"kernel_initializer": "he_normal", "kernel_regularizer": "l2", "kernel_constraint": "max_norm"}
OF_BIAS = {"bias_initializer": "random_normal", "bias_regularizer": L2, "bias_constraint": "NonNeg"}
OF_GAMMA_AND_BETA = {
    f"{of}_{what}": name for of in ("gamma", "beta")
    for what, name in (("initializer", "uniform"), ("regularizer", "l1l2"), ("constraint", "unit_norm"))}
FIRST = {"data_format": "channels_first"}
RECURRENT = {
    **EVERY, **OF_KERNEL, **OF_BIAS, "units": 3, "recurrent_initializer": "glorot_normal", "recurrent_regularizer": "l2",
    "recurrent_constraint": "min_max_norm", "recurrent_dropout": 0.5, "unroll": True, "zero_output_for_mask": True,
    "implementation": 1, "use_cudnn": False, "activation": "relu", "recurrent_activation": "tanh", "dropout": 0.5, "seed": 3,
    "return_sequences": True, "go_backwards": True}

# Each layer of the table, with its defaults and with others: the shape of a sample, the class, the arguments.
LAYERS = [
    ((4,), "Dense", {"units": 3}),
    ((5, 4), "Dense", {"units": 3, "activation": "gelu", "use_bias": False, "kernel_initializer": "he_normal",
                       "kernel_regularizer": L2}),
    ((9, 2), "Conv1D", {"filters": 3, "kernel_size": 2}),
    ((9, 4), "Conv1D", {"filters": 6, "kernel_size": [3], "strides": 2, "padding": "causal", "groups": 2,
                        "activation": "tanh"}),
    ((9, 4), "Conv1D", {"filters": 2, "kernel_size": 3, "padding": "same", "dilation_rate": 2, "use_bias": False}),
    ((8, 9, 2), "Conv2D", {"filters": 3, "kernel_size": 2}),
    ((8, 9, 4), "Conv2D", {"filters": 6, "kernel_size": [3, 2], "strides": [2, 3], "padding": "same", "groups": 2}),
    ((8, 9, 4), "Conv2D", {"filters": 2, "kernel_size": [3, 2], "dilation_rate": [2, 3], "activation": "relu"}),
    ((8, 9, 2), "DepthwiseConv2D", {"kernel_size": 2}),
    ((8, 9, 2), "DepthwiseConv2D", {"kernel_size": [3, 2], "strides": 2, "padding": "same", "depth_multiplier": 3}),
    ((9, 2), "MaxPooling1D", {}),
    ((9, 2), "MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}),
    ((9, 8, 2), "MaxPooling2D", {}),
    ((9, 8, 2), "MaxPooling2D", {"pool_size": [3, 2], "strides": [1, 2], "padding": "same"}),
    ((9, 2), "AveragePooling1D", {"pool_size": 4}),
    ((9, 2), "AveragePooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}),
    ((9, 8, 2), "AveragePooling2D", {"pool_size": 2}),
    ((9, 8, 2), "AveragePooling2D", {"pool_size": [3, 2], "strides": [1, 2], "padding": "valid"}),
    ((9, 2), "GlobalAveragePooling1D", {}),
    ((9, 2), "GlobalAveragePooling1D", {"keepdims": True}),
    ((9, 8, 2), "GlobalAveragePooling2D", {}),
    ((9, 8, 2), "GlobalAveragePooling2D", {"keepdims": True}),
    ((9, 2), "ZeroPadding1D", {}),
    ((9, 2), "ZeroPadding1D", {"padding": [2, 3]}),
    ((9, 8, 2), "ZeroPadding2D", {}),
    ((9, 8, 2), "ZeroPadding2D", {"padding": [2, 3]}),
    ((9, 8, 2), "ZeroPadding2D", {"padding": [[2, 3], [0, 1]]}),
    ((9, 8, 2), "Flatten", {}),
    ((3, 4), "Reshape", {"target_shape": [6, 2]}),
    ((3, 4), "Reshape", {"target_shape": [2, -1, 3]}),
    ((3, 4, 5), "Permute", {"dims": [3, 1, 2]}),
    ((4,), "Dropout", {"rate": 0.5}),
    ((4,), "Dropout", {"rate": 0.25, "seed": 7, "noise_shape": [None, 1]}),
    ((4,), "BatchNormalization", {}),
    ((3, 4, 5), "BatchNormalization", {"axis": 1, "momentum": 0.9, "epsilon": 1e-5, "scale": False}),
    ((3, 4), "BatchNormalization", {"center": False, "renorm": True, "renorm_clipping": {"rmax": 3.0}}),
    ((4,), "LayerNormalization", {}),
    ((3, 4, 5), "LayerNormalization", {"axis": [1, 3], "epsilon": 1e-5, "center": False}),
    ((3, 4, 5), "LayerNormalization", {"axis": [2, 1]}),
    ((3, 4, 5), "LayerNormalization", {"axis": [1, -1], "scale": False}),
    ((4,), "Embedding", {"input_dim": 5, "output_dim": 3}),
    ((4, 2), "Embedding", {"input_dim": 5, "output_dim": 3, "embeddings_initializer": "zeros"}),
    ((4, 2), "LSTM", {"units": 3}),
    ((4, 2), "LSTM", {"units": 3, "return_sequences": True, "go_backwards": True, "use_bias": False,
                      "activation": "relu", "recurrent_activation": "tanh", "unit_forget_bias": False}),
    ((4, 2), "GRU", {"units": 3}),
    ((4, 2), "GRU", {"units": 3, "reset_after": False, "return_sequences": True, "dropout": 0.5, "seed": 3}),
    ((4,), "Activation", {"activation": "softplus"}),
    ((4,), "ReLU", {}),
    ((4,), "ReLU", {"max_value": 6, "negative_slope": 0.1, "threshold": 0.5}),
    ((4,), "Softmax", {}),
    ((3, 4), "Softmax", {"axis": [1, 2]}),
    ((4,), "Dense", {"units": 3, "dtype": "float64", "name": "mine", "trainable": False}),
    ((4,), "Dense", {"units": 3, "dtype": "mixed_bfloat16"}),
    ((4,), "Dense", {"units": 3, **EVERY, **OF_KERNEL, **OF_BIAS}),
    ((4, 9), "Conv1D", {"filters": 3, "kernel_size": 2, **FIRST, **EVERY, **OF_KERNEL, **OF_BIAS}),
    ((2, 8, 9), "Conv2D", {"filters": 3, "kernel_size": 2, **FIRST, **EVERY, **OF_KERNEL, **OF_BIAS}),
    ((8, 9, 2), "Conv2D", {"filters": 3, "kernel_size": 2, "use_bias": False}),
    ((2, 8, 9), "DepthwiseConv2D", {"kernel_size": 2, "activation": "relu", "depthwise_initializer": "lecun_uniform",
                                    "depthwise_regularizer": "l2", "depthwise_constraint": "non_neg", **FIRST, **EVERY,
                                    **OF_BIAS}),
    ((8, 9, 2), "DepthwiseConv2D", {"kernel_size": 2, "dilation_rate": 2, "use_bias": False}),
    *(((2, 9), name, {"pool_size": 3, **FIRST, **EVERY}) for name in ("MaxPooling1D", "AveragePooling1D")),
    *(((2, 9, 8), name, {"pool_size": 3, **FIRST, **EVERY}) for name in ("MaxPooling2D", "AveragePooling2D")),
    ((9, 8, 2), "AveragePooling2D", {"pool_size": 2, "padding": "same"}),
    ((2, 9), "GlobalAveragePooling1D", {**FIRST, **EVERY}),
    ((2, 9, 8), "GlobalAveragePooling2D", {**FIRST, **EVERY}),
    ((2, 9), "ZeroPadding1D", {**FIRST, **EVERY}),
    ((2, 9, 8), "ZeroPadding2D", {**FIRST, **EVERY}),
    ((2, 9, 8), "Flatten", {**FIRST, **EVERY}),
    ((3, 4), "Reshape", {"target_shape": [None, 2], **EVERY}),
    ((3, 4), "Permute", {"dims": [2, 1], **EVERY}),
    ((4,), "Dropout", {"rate": 0.5, **EVERY}),
    ((4,), "BatchNormalization", {"renorm": True, "renorm_momentum": 0.5, "renorm_clipping": {"dmax": 2}, "moving_mean_initializer": "ones",
                                  "moving_variance_initializer": {"class_name": "Constant", "config": {"value": 2}},
                                  **OF_GAMMA_AND_BETA, **EVERY}),
    ((4,), "LayerNormalization", {**OF_GAMMA_AND_BETA, **EVERY}),
    ((4,), "Embedding", {"input_dim": 5, "output_dim": 3, "embeddings_initializer": "orthogonal",
                         "embeddings_regularizer": "l2", "embeddings_constraint": "unit_norm",
                         "mask_zero": True, **EVERY}),
    ((4, 2), "LSTM", RECURRENT),
    ((4, 2), "GRU", RECURRENT),
    ((4, 2), "GRU", {"units": 3, "use_bias": False}),
    *(((4,), name, {**given, **EVERY}) for name, given in (
        ("Activation", {"activation": "relu"}), ("ReLU", {}), ("Softmax", {}))),
]
# Arguments that can have one value here.
SETTLED = {"lora_rank", "lora_alpha", "quantization_config", "return_state", "stateful", "rms_scaling", "synchronized"}


def names_of(path):
    """Paths, shapes and dtypes of the tensors of a file that h5py opens, ours left out, and the names of the groups."""
    found = {}

    def visit(path, it):
        if not path.startswith("libckpt"):
            found[path] = (it.shape, str(it.dtype)) if isinstance(it, h5py.Dataset) else it.attrs.get("name")

    with h5py.File(path) as f:
        f.visititems(visit)
    return found


@pytest.mark.parametrize("shape,name,arguments", LAYERS, ids=lambda v: v if isinstance(v, str) else None)
def test_a_layer_is_the_one_that_keras_makes(tmp_path, shape, name, arguments):
    keras.utils.clear_session()
    twin = keras.Sequential([keras.Input(shape), getattr(keras.layers, name).from_config(json.loads(json.dumps(arguments)))])
    with Builder(shape) as builder:
        layer = builder.add(name, arguments)
        values = []
        for variable in twin.layers[0].weights:
            if "seed" not in variable.path:
                path, of_shape, dtype = builder.variable(layer, variable.name)
                assert of_shape == tuple(variable.shape) and dtype == variable.dtype, path
                value = np.asarray(rng.random(of_shape), dtype)
                builder.bind(layer, variable.name, value)
                values.append(value)
        builder.save(tmp_path / "ours.keras")
    # Keras takes what we say, and says the same of it, but for what it takes and never says.
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    loaded.save(tmp_path / "again.keras")
    ours, again = config_of(tmp_path / "ours.keras"), config_of(tmp_path / "again.keras")
    for silent in ("implementation", "use_cudnn"):
        ours["config"]["layers"][1]["config"].pop(silent, None)
    assert again.pop("compile_config", {}) == {}
    assert ours == again
    assert [tuple(v.shape) for v in twin.weights] == [tuple(v.shape) for v in loaded.weights]
    weights = [v for v in loaded.layers[0].weights if "seed" not in v.path]
    for variable, value in zip(weights, values, strict=True):
        assert np.array_equal(np.asarray(variable), value), variable.path
    mine, theirs = names_of(tmp_path / "ours.keras"), weights_in(tmp_path, "again.keras")
    assert mine == theirs


def test_every_argument_is_met():
    """With another value than its default, in one of the models above."""
    for name in {name for _, name, _ in LAYERS}:
        met = {argument for _, of, arguments in LAYERS if of == name for argument in arguments}
        shape, _, arguments = next(case for case in LAYERS if case[1] == name)
        with Builder(shape) as builder, pytest.raises(Failure) as failed:
            builder.add(name, {**arguments, "?": 1})
        assert set(str(failed.value).split(" are: ")[1].split(", ")) - SETTLED <= met, name


def test_a_mask_goes_through_to_the_layer_that_heeds_it(tmp_path):
    twin = keras.Sequential([keras.Input((6,)), keras.layers.Embedding(5, 3, mask_zero=True), keras.layers.LSTM(4)])
    with Builder([6]) as builder:
        layers = [builder.add("Embedding", {"input_dim": 5, "output_dim": 3, "mask_zero": True}),
                  builder.add("LSTM", {"units": 4})]
        for layer, of in zip(layers, twin.layers):
            for variable in of.weights:
                if "seed" not in variable.path:
                    builder.bind(layer, variable.name, np.array(variable))
        builder.save(tmp_path / "ours.keras")
    x = np.array([[1, 2, 0, 0, 0, 0], [3, 4, 1, 2, 3, 0], [0, 1, 0, 2, 0, 3]])
    ours = np.asarray(keras.models.load_model(tmp_path / "ours.keras")(x))
    assert np.array_equal(ours, np.asarray(twin(x)))
    assert not np.allclose(ours, np.asarray(twin(np.where(x == 0, 1, x))))


def weights_in(tmp_path, name):
    zipfile.ZipFile(tmp_path / name).extract("model.weights.h5", tmp_path)
    return names_of(tmp_path / "model.weights.h5")


OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "learning_rate": 0.05, "weight_decay": 0.01}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True, "rho": 0.8}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True, "beta_1": 0.8, "epsilon": 1e-5, "clipnorm": 1.0}),
    ("Adam", {"use_ema": True, "gradient_accumulation_steps": 2}),
    ("AdamW", {"weight_decay": 0.01}),
]

TRAINS = """
import json, sys
import keras, numpy as np
ours, theirs, out = sys.argv[1:]
x, y = np.load(out)["x"], np.load(out)["y"]
losses = []
for path in (ours, theirs):
    keras.utils.set_random_seed(1)
    model = keras.models.load_model(path)
    steps = int(model.optimizer.iterations)
    losses.append([steps] + [float(model.train_on_batch(x, y)[0]) for _ in range(3)])
    weights = [np.asarray(v) for v in model.weights if "seed" not in v.path]
    losses[-1].append([w.tolist() for w in weights])
print(json.dumps(losses))
"""


@pytest.mark.parametrize("name,arguments", OPTIMIZERS, ids=lambda v: v if isinstance(v, str) else None)
def test_training_goes_on_in_keras(tmp_path, name, arguments):
    """Trained by Keras, handed to the builder variable by variable, and trained on by Keras from both files alike."""
    theirs, ours, data = tmp_path / "theirs.keras", tmp_path / "ours.keras", tmp_path / "data.npz"
    np.savez(data, x=rng.random((16, 6, 6, 1), "float32"), y=rng.integers(0, 5, 16))
    run(sys.executable, "-c", MAKES, name, json.dumps(arguments), theirs, data)
    zipfile.ZipFile(theirs).extract("model.weights.h5", tmp_path)
    with Builder([6, 6, 1]) as builder, h5py.File(tmp_path / "model.weights.h5") as f:
        layers = {}
        for class_name, config in NETWORK:
            layers[class_name] = builder.add(class_name, config)
        builder.compile(name, **arguments, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        bound = [(layers[c], n) for c, n in VARIABLES]
        for layer, variable in bound:
            path, shape, dtype = builder.variable(layer, variable)
            builder.bind(layer, variable, f[path][()].reshape(shape).astype(dtype))
        state = f["optimizer/vars"]
        at = 2
        builder.bind_optimizer("iteration", np.array(state["0"][()]))
        if name != "Adam":  # else it is the one of compile()
            builder.bind_optimizer("learning_rate", np.array(state["1"][()]))
        trainable = [(layer, v) for layer, v in bound if not v.startswith("moving")]
        for slots in SLOTS[name](arguments):
            for layer, variable in trainable:
                for slot in slots:
                    builder.bind_optimizer(slot, state[str(at)][()], layer, variable)
                    at += 1
        assert at == len(state), "slots are left over"
        builder.save(ours)
    mine, other = json.loads(run(sys.executable, "-c", TRAINS, ours, theirs, data).splitlines()[-1])
    assert mine == other and mine[0] > 0
    for config in (mine := config_of(ours)["compile_config"], other := config_of(theirs)["compile_config"]):
        # Keras computes them: the rate in float32, whether to compile by the backend.
        config["optimizer"]["config"].pop("learning_rate"), config.pop("jit_compile")
    assert mine == other


NETWORK = [("Conv2D", {"filters": 3, "kernel_size": 3, "activation": "relu"}), ("BatchNormalization", {}),
           ("Flatten", {}), ("Dropout", {"rate": 0.0}), ("Dense", {"units": 5, "activation": "softmax"})]
VARIABLES = [("Conv2D", "kernel"), ("Conv2D", "bias"), ("BatchNormalization", "gamma"), ("BatchNormalization", "beta"),
             ("BatchNormalization", "moving_mean"), ("BatchNormalization", "moving_variance"), ("Dense", "kernel"),
             ("Dense", "bias")]
COMMON = [("average", "use_ema"), ("gradient_accumulator", "gradient_accumulation_steps")]


def before(arguments):
    return [[slot] for slot, argument in COMMON if arguments.get(argument)]


def adam(arguments):
    return before(arguments) + [["momentum", "velocity"]] + [["velocity_hat"]] * arguments.get("amsgrad", False)


SLOTS = {
    "SGD": lambda a: before(a) + ([["momentum"]] if a.get("momentum") else []),
    "RMSprop": lambda a: before(a) + [["velocity"]] + ([["momentum"]] if a.get("momentum") else []) + (
        [["average_gradient"]] if a.get("centered") else []),
    "Adam": adam,
    "AdamW": adam,
}

MAKES = f"""
import json, sys
import keras, numpy as np
name, arguments, theirs, data = sys.argv[1:]
x, y = np.load(data)["x"], np.load(data)["y"]
keras.utils.set_random_seed(3)
model = keras.Sequential([keras.Input((6, 6, 1))] + [getattr(keras.layers, n)(**c) for n, c in {NETWORK!r}])
model.compile(getattr(keras.optimizers, name)(**json.loads(arguments)), "sparse_categorical_crossentropy", metrics=["accuracy"])
for _ in range(5):
    model.train_on_batch(x, y)
model.save(theirs)
"""


WRONG = [
    ("Dense", "{}", "INVALID_ARGUMENT", "Dense 'dense' needs 'units': an integer from 1"),
    ("Dense", '{"units": 0}', "INVALID_ARGUMENT", "'units' is 0: it is to be an integer from 1"),
    ("Dense", '{"units": 2.5}', "INVALID_ARGUMENT", "'units' is 2.5"),
    ("Dense", '{"unit": 3, "units": 3}', "INVALID_ARGUMENT", "no argument 'unit'; those that it has are: activation,"),
    ("Dense", '{"units": 3, "activation": "rellu"}', "INVALID_ARGUMENT", "'activation' is \"rellu\""),
    ("Dense", '{"units": 3, "dtype": "int8"}', "UNSUPPORTED", "'dtype' is \"int8\""),
    ("Dense", '{"units": 3, "name": "a/b"}', "INVALID_ARGUMENT", "without '/'"),
    ("Dense", '{"units": 3, "name": "a\\u0000b"}', "INVALID_ARGUMENT", "'name' is \"a\\u0000b\": it is to be text without"),
    ("Dense", json.dumps({"units": 3, "name": "a" * 60_001}), "INVALID_ARGUMENT", "of 1 to 60000 bytes"),
    ("Dense", json.dumps({"units": "a" * 100_000}), "INVALID_ARGUMENT", "aaa... (100002 bytes): it is to be an integer"),
    ("Dense", '[3]', "INVALID_ARGUMENT", "to be a JSON object"),
    ("Dense", '{"units": 3', "INVALID_ARGUMENT", "not JSON"),
    ("MultiHeadAttention", "{}", "UNSUPPORTED", "there is no layer 'MultiHeadAttention' here; there are InputLayer, Dense"),
    ("InputLayer", '{"shape": [2]}', "STATE", "one InputLayer"),
    ("Conv1D", '{"filters": 2, "kernel_size": 2}', "INVALID_ARGUMENT", "it takes 2 axes"),
    ("Conv2D", '{"filters": 2, "kernel_size": 9}', "INVALID_ARGUMENT", "does not fit into (None, 8, 8, 3)"),
    ("Conv2D", '{"filters": 2, "kernel_size": 2, "groups": 2}', "INVALID_ARGUMENT", "3 channels and 2 filters"),
    ("Conv2D", '{"filters": 2, "kernel_size": [2, 2, 2]}', "INVALID_ARGUMENT", "a list of 2"),
    ("Conv2D", '{"filters": 2, "kernel_size": 2, "strides": 2, "dilation_rate": 2}', "INVALID_ARGUMENT", "both"),
    ("Reshape", '{"target_shape": [5, -1]}', "INVALID_ARGUMENT", "cannot have the shape"),
    ("Reshape", '{"target_shape": [-1, -1]}', "INVALID_ARGUMENT", "one may be -1"),
    ("Permute", '{"dims": [2, 1]}', "INVALID_ARGUMENT", "'dims' has 2 axes"),
    ("BatchNormalization", '{"axis": 4}', "INVALID_ARGUMENT", "no axis 4"),
    ("Softmax", '{"axis": 4}', "INVALID_ARGUMENT", "no axis 4"),
    ("LayerNormalization", '{"axis": [1, -3]}', "INVALID_ARGUMENT", "'axis' has axis 1 of (None, 8, 8, 3) twice"),
    ("Activation", '{"activation": "glu"}', "INVALID_ARGUMENT", "'activation' is"),
    ("Dense", '{"units": 9223372036854775807}', "INVALID_ARGUMENT", "more elements than can be counted"),
    ("LSTM", '{"units": 3, "return_state": true}', "UNSUPPORTED", "hands on one tensor"),
    ("Dropout", '{"rate": 1.5}', "INVALID_ARGUMENT", "from 0 to 1"),
    ("Dropout", '{"rate": 0.5, "noise_shape": [null, 8, 7, 1]}', "INVALID_ARGUMENT", "as (None, 8, 8, 3), in each axis"),
    ("ReLU", '{"negative_slope": -0.5}', "INVALID_ARGUMENT", "'negative_slope' is -0.5: it is to be a number from 0"),
    ("Dense", '{"units": 3, "kernel_initializer": "he"}', "INVALID_ARGUMENT", "he_normal"),
    ("Dense", '{"units": 3, "bias_initializer": "orthogonal"}', "INVALID_ARGUMENT", "not for a tensor of 1 axes"),
    ("Dense", '{"units": 3, "kernel_regularizer": {"class_name": "L2", "config": {"l2": -1}}}', "INVALID_ARGUMENT",
     "'l2' is -1: it is to be a number from 0"),
    ("Dense", '{"units": 3, "lora_rank": 4}', "UNSUPPORTED", "'lora_rank' is 4, not taken: "),
    ("BatchNormalization", '{"synchronized": true}', "UNSUPPORTED", "TensorFlow"),
    ("Reshape", '{"target_shape": [null, -1]}', "INVALID_ARGUMENT", "one may be -1 or null"),
]


@pytest.mark.parametrize("name,config,status,text", WRONG)
def test_what_is_wrong_is_named(name, config, status, text):
    with Builder([8, 8, 3]) as builder:
        with pytest.raises(Failure) as failed:
            builder.add(name, config)
        assert failed.value.status == f"CKPT_E_{status}" and text in str(failed.value)
        # Nothing has changed.
        assert builder.add("Dense", {"units": 3}) == 1


def test_layers_may_come_after_what_was_bound(tmp_path):
    """Each layer changes where the optimizer's variables are in the file, not what they are of."""
    with Builder([4]) as builder:
        builder.compile("RMSprop", momentum=0.9, loss="mse")
        builder.bind_optimizer("iteration", np.array(7, "int64"))
        layers = []
        for units in (3, 3):
            layer = builder.add("Dense", {"units": units, "use_bias": False})
            kernel = np.asarray(rng.random(builder.variable(layer, "kernel")[1]), "float32")
            builder.bind(layer, "kernel", kernel)
            for slot in ("velocity", "momentum"):
                builder.bind_optimizer(slot, kernel + {"velocity": 1, "momentum": 2}[slot], layer, "kernel")
            layers.append(kernel)
        builder.save(tmp_path / "m.weights.h5")
    found = lib.read(tmp_path / "m.weights.h5")
    for at, (kernel, more) in enumerate([(k, more) for more in (1, 2) for k in layers]):
        assert np.array_equal(found[f"optimizer/vars/{at + 2}"], kernel + more)
    assert np.float32(0.001) == found["optimizer/vars/1"]


def test_what_is_bound_wrongly_is_named(tmp_path):
    with Builder([4]) as builder:
        dense = builder.add("Dense", {"units": 3})

        def fails(status, text, call, *args):
            with pytest.raises(Failure) as failed:
                call(*args)
            assert failed.value.status == f"CKPT_E_{status}" and text in str(failed.value), failed.value

        kernel, bias = np.zeros((4, 3), "float32"), np.zeros(3, "float32")
        fails("MISMATCH", "'layers/dense/vars/0', kernel, is float32, not float64", builder.bind, dense, "kernel",
              kernel.astype("float64"))
        fails("NOT_FOUND", "no variable 'weight'; it has kernel, bias", builder.bind, dense, "weight", kernel)
        fails("NOT_FOUND", "layer 0 is the InputLayer", builder.bind, 0, "kernel", kernel)
        fails("NOT_FOUND", "no layer 7: there are 2", builder.bind, 7, "kernel", kernel)
        builder.bind(dense, "kernel", kernel)
        fails("STATE", "'bias' of layer 'dense' is not bound", builder.save, tmp_path / "m.keras")
        builder.bind(dense, "bias", bias)
        fails("STATE", "not compiled", builder.bind_optimizer, "iteration", np.zeros((), "int32"))
        fails("UNSUPPORTED", "no optimizer 'Lion' here; there are SGD", builder.compile, "Lion")
        with pytest.raises(Failure, match="no argument 'lr'; those"):
            builder.compile("Adam", lr=0.1)
        fails("INVALID_ARGUMENT", "Adam has 'clipnorm' and 'clipvalue': it can have one", lambda: builder.compile(
            "Adam", clipnorm=1, clipvalue=2))
        fails("INVALID_ARGUMENT", "an integer from 2 to 2147483647, or null", lambda: builder.compile(
            "Adam", gradient_accumulation_steps=1))
        with pytest.raises(Failure, match="'name' is .*: it is to be text without NUL"):
            lib("ckpt_keras_compile", builder.handle, b"Adam", b'{"name": "a\\u0000"}')
        fails("INVALID_ARGUMENT", "'weight_decay' is null", lambda: builder.compile("AdamW", weight_decay=None))
        builder.compile("Adam", loss="mse")
        builder.save(tmp_path / "m.keras")
        fails("NOT_FOUND", "Adam has no 'rho' of 'layers/dense/vars/0', kernel", builder.bind_optimizer, "rho", kernel,
              dense, "kernel")
        builder.bind_optimizer("iteration", np.zeros((), "int64"))
        fails("STATE", "'momentum' of 'layers/dense/vars/0' is not bound", builder.save, tmp_path / "m.keras")
    handle = lib.make("ckpt_keras_new")
    with pytest.raises(Failure, match="CKPT_E_STATE.*add an InputLayer before 'Dense'"):
        lib("ckpt_keras_add", handle, b"Dense", b'{"units": 3}', None)
    with pytest.raises(Failure, match="CKPT_E_STATE.*no layers"):
        lib.make("ckpt_keras_model", handle)
    lib.c.ckpt_keras_free(handle)
