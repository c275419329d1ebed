"""Of each argument that the builder has, values of every kind: it takes those that Keras takes, and Keras makes of them
what the builder has said; it refuses the others, at once. Keras is the judge: it makes the model and runs it."""
import importlib
import json
import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "numpy")
import keras
import numpy as np
import pytest

from capi import Failure
from keras_builder import Builder, config_of

# What each layer is given, and what it needs: the shape of a sample, the arguments.
LAYERS = {
    "Dense": ((3, 4), {"units": 3}),
    "Conv1D": ((9, 2), {"filters": 4, "kernel_size": 2}),
    "Conv2D": ((8, 9, 2), {"filters": 4, "kernel_size": 2}),
    "DepthwiseConv2D": ((8, 9, 2), {"kernel_size": 2}),
    "MaxPooling1D": ((9, 2), {}),
    "MaxPooling2D": ((9, 8, 2), {}),
    "AveragePooling1D": ((9, 2), {"pool_size": 2}),
    "AveragePooling2D": ((9, 8, 2), {"pool_size": 2}),
    "GlobalAveragePooling1D": ((9, 2), {}),
    "GlobalAveragePooling2D": ((9, 8, 2), {}),
    "ZeroPadding1D": ((9, 2), {}),
    "ZeroPadding2D": ((9, 8, 2), {}),
    "Flatten": ((3, 4), {}),
    "Reshape": ((3, 4), {"target_shape": [6, 2]}),
    "Permute": ((3, 4), {"dims": [2, 1]}),
    "Dropout": ((3, 4), {"rate": 0.5}),
    "BatchNormalization": ((3, 4), {"renorm": True}),
    "LayerNormalization": ((3, 4), {}),
    "Embedding": ((4,), {"input_dim": 5, "output_dim": 3}),
    "LSTM": ((2, 2), {"units": 3}),
    "GRU": ((2, 2), {"units": 3}),
    "Activation": ((3, 4), {"activation": "relu"}),
    "ReLU": ((3, 4), {}),
    "Softmax": ((3, 4), {}),
}
OPTIMIZERS = ["SGD", "RMSprop", "Adam", "AdamW"]


def serialized(module, class_name, **config):
    return {"module": f"keras.{module}", "class_name": class_name, "config": config, "registered_name": None}


VALUES = [
    None, True, False, 0, 1, 2, 3, -1, -2, 1.0, 0.5, 1.5, -0.5, 2**33, 1e300,
    "x", "", "auto", "valid", "same", "causal", "channels_first", "channels_last", "relu", "zeros", "he_normal",
    "OrthogonalInitializer", "identity", "l2", "L1", "l1l2", "orthogonal_regularizer", "max_norm", "NonNeg",
    "float16", "float64", "mixed_bfloat16",
    [], [1], [-1], [2], [1, 2], [2, 1], [1, -1], [2, 2], [1, 1], [0, 1], [None, 1], [None, 12], [None, 5], [None, None],
    [-1, None], [-1, 6], [12], [1, 1, 1], [2, 1, 4], [None, 3, 4], [None, 3, 5], [5, 1, None], [None, 1, 1, 1], [0.5, 1],
    ["x"], [[1, 2], [0, 1]], [[1], 2], [[1, 2, 3], 1],
    {}, {"x": 1}, {"rmax": 3.0, "rmin": 1.0, "dmax": 2}, {"rmax": 1, "rmin": 2}, {"dmax": -1}, {"rmax": "x"},
    {"class_name": "L2", "config": {}},
]
OBJECTS = [
    serialized("initializers", "HeNormal", seed=3), serialized("initializers", "HeNormal", seed=-3),
    serialized("initializers", "HeNormal", sed=3), serialized("initializers", "Orthogonal", gain=0.5),
    serialized("initializers", "VarianceScaling", scale=0.0), serialized("initializers", "VarianceScaling", mode="fan"),
    serialized("initializers", "VarianceScaling", distribution="normal", input_axes=[0], output_axes=[-1]),
    serialized("initializers", "VarianceScaling", input_axes=[0], output_axes=[7]),
    serialized("initializers", "Constant", value=2), serialized("initializers", "Zero"),
    serialized("regularizers", "L2", l2=0.5), serialized("regularizers", "L2", l2=-0.5),
    serialized("regularizers", "L1L2", l1=None, l2=1), serialized("regularizers", "OrthogonalRegularizer", mode="x"),
    serialized("constraints", "MaxNorm", axis=[0]), serialized("constraints", "UnitNorm", axis=9),
    serialized("constraints", "MinMaxNorm", rate=0.5), serialized("constraints", "MinMaxNorm", speed=1),
    serialized("dtype_policies", "DTypePolicy", name="float32"),
    {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float16"}, "registered_name": None},
    {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "int"}, "registered_name": None},
]

OF_OBJECTS = ("initializer", "regularizer", "constraint", "dtype")

# What the builder refuses although Keras takes it, by the class, the argument, the value and the refusal, and why.
REFUSED = [
    ("Keras takes anything for a flag, and looks at its truth",
     lambda n, a, v, e: "it is to be true" in e and not isinstance(v, bool)),
    ("true is no number in JSON", lambda n, a, v, e: isinstance(v, bool) and "it is to be" in e),
    ("a list is no number, although it can be reckoned with", lambda n, a, v, e: isinstance(v, list) and ": it is to be a number" in e),
    ("nothing at all is null", lambda n, a, v, e: v in (0, "", [], {}) and e.endswith("null")),
    ("what the file cannot have, as the message says", lambda n, a, v, e: "not taken: " in e),
    ("variables are floats here", lambda n, a, v, e: a == "dtype" and "it can be one of" in e),
    ("Keras looks at whether it is 1 alone", lambda n, a, v, e: a == "implementation"),
    ("Keras takes the nearest that is one", lambda n, a, v, e: a.endswith("dropout") and ": it is to be a number from 0 to 1" in e),
    ("Keras takes anything that is made of parts, and fails when it is fed", lambda n, a, v, e: a == "target_shape"),
    ("samples are apart from each other", lambda n, a, v, e: n == "Softmax" and v in (None, 0)),
    ("of no axis, nothing is normalized", lambda n, a, v, e: n == "LayerNormalization" and v == []),
    ("Keras adds it as it is, to nothing", lambda n, a, v, e: n == "LayerNormalization" and a == "epsilon" and v is None),
    ("steps are counted", lambda n, a, v, e: a == "gradient_accumulation_steps" and isinstance(v, float)),
    ("axes are counted", lambda n, a, v, e: a == "axis" and isinstance(v, float)),
    ("names are text", lambda n, a, v, e: a == "name"),
]
# What the builder takes although Keras cannot run it here.
TAKEN = [
    ("there is no cuDNN here", lambda n, a, v: a == "use_cudnn"),
    ("what an activation does that is an object, Keras finds out",
     lambda n, a, v: a.endswith("activation") and isinstance(v, dict)),
    ("Keras gives its backend a list, where numpy and jax take a tuple", lambda n, a, v: n == "Softmax" and isinstance(v, list)),
    ("numpy makes no orthogonal matrix of float16", lambda n, a, v: n in ("LSTM", "GRU") and a == "dtype"),
    ("the batch may be of five", lambda n, a, v: a == "noise_shape" and v[0] == 5),
]
SIZES = {"units", "filters", "input_dim", "output_dim", "depth_multiplier", "padding"}
# What Keras takes and does not write.
NOT_KEPT = {"use_cudnn", "implementation"}


def is_expected(exceptions, *case):
    return any(is_it(*case) for _, is_it in exceptions)


def names_in(call):
    """The names that the refusal of an unknown one lists."""
    with pytest.raises(Failure) as failed:
        call()
    return str(failed.value).split(" are: ")[-1].split("it has ")[-1].split(", ")


def arguments_of_layer(name):
    shape, needed = LAYERS[name]
    with Builder(shape) as builder:
        return names_in(lambda: builder.add(name, {**needed, "?": 1}))


def ours(path, shape, name, arguments):
    """The layer's configuration as the builder writes it."""
    with Builder(shape) as builder:
        layer = builder.add(name, arguments)
        for variable in names_in(lambda: builder.variable(layer, "?")):
            if variable != "none":
                _, of_shape, dtype = builder.variable(layer, variable)
                builder.bind(layer, variable, np.broadcast_to(np.zeros((), dtype), of_shape))
        builder.save(path)
    return config_of(path)


def differences(ours, theirs):
    return {k: (ours.get(k), theirs.get(k)) for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k)}


def run_in_keras(make, shape):
    """What Keras says of the layer that it has made, if it can make it and run it; or why it cannot."""
    keras.utils.clear_session(free_memory=False)
    try:
        model = make()
        for training in (False, True):
            model(np.zeros((2, *shape), "float32"), training=training)
        for variable in model.weights:
            if variable.constraint is not None:
                variable.constraint(variable.value)
        model.losses
        config = json.loads(model.to_json())["config"]["layers"][1]["config"]
        return {k: v for k, v in config.items() if k != "name"}, None
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"


def alike(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return a == b or abs(a - b) <= 1e-6 * abs(a)  # Keras keeps some in float32
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    # Keras makes the one of the other.
    return a == b or [a, b] in (["truncated_normal", "normal"], [{}, None])


def cases(arguments):
    for argument in arguments:
        if argument != "name":
            values = VALUES + OBJECTS * argument.endswith(OF_OBJECTS)
            yield from ((argument, value) for value in values)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_takes_what_keras_takes(tmp_path, name):
    warnings.simplefilter("ignore")
    shape, needed = LAYERS[name]
    wrong = []
    for argument, value in cases(arguments_of_layer(name)):
        if argument in SIZES and value == 2**33:
            continue  # which Keras would make
        arguments = {**needed, argument: value}

        def raw():
            layer = getattr(keras.layers, name).from_config(json.loads(json.dumps(arguments)))
            return keras.Sequential([keras.Input(shape), layer])

        theirs, why_not = run_in_keras(raw, shape)
        try:
            config = ours(tmp_path / "ours.keras", shape, name, arguments)
        except Failure as e:
            if theirs is not None and not is_expected(REFUSED, name, argument, value, str(e)):
                wrong.append(f"{argument}={value!r} is refused: {e}")
            continue
        written = {k: v for k, v in config["config"]["layers"][1]["config"].items() if k not in NOT_KEPT | {"name"}}
        made, why_broken = run_in_keras(lambda: keras.saving.deserialize_keras_object(config), shape)
        if made is None and is_expected(TAKEN, name, argument, value):
            continue
        if made is None:
            wrong.append(f"{argument}={value!r} is taken: {why_broken[:300]}")
        elif not alike(made, written):
            wrong.append(f"{argument}={value!r} becomes {differences(written, made)}")
        elif theirs is not None and not alike(theirs, made):
            wrong.append(f"{argument}={value!r}: Keras makes {differences(made, theirs)}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("family", ["initializer", "regularizer", "constraint"])
def test_the_names_are_those_of_keras(family):
    known = importlib.import_module(f"keras.src.{family}s").ALL_OBJECTS_DICT
    for name, of in known.items():
        with Builder([3, 4]) as builder:
            try:
                builder.add("Dense", {"units": 3, f"kernel_{family}": name})
            except Failure:
                # Those that are for others to inherit from, and one for a kernel of three axes.
                assert of.__name__ in ("Initializer", "Regularizer", "Constraint", "STFT"), name
    with Builder([3, 4]) as builder, pytest.raises(Failure) as failed:
        builder.add("Dense", {"units": 3, f"kernel_{family}": "?"})
    assert set(str(failed.value).split("one of ")[1].removesuffix(", or null").split(", ")) <= set(known)


def optimizer_in_keras(make):
    """What Keras says of an optimizer that has made some steps, or why it cannot."""
    try:
        optimizer = make()
        variable = keras.Variable(np.ones((2, 3), "float32"))
        for _ in range(2):
            optimizer.apply([keras.ops.ones((2, 3))], [variable])
        return json.loads(json.dumps({k: v for k, v in optimizer.get_config().items() if k != "name"})), None
    except Exception as e:
        return None, f"{type(e).__name__}: {e}"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_what_keras_takes(tmp_path, name):
    warnings.simplefilter("ignore")
    wrong = []
    with Builder([3]) as builder:
        builder.bind(builder.add("Dense", {"units": 2, "use_bias": False}), "kernel", np.zeros((3, 2), "float32"))
        arguments = names_in(lambda: builder.compile(name, **{"?": 1}))
        more = [{"clipnorm": 1, "clipvalue": 1}, {"clipnorm": 1.0, "global_clipnorm": 2}]
        for given in more + [{"use_ema": True, argument: value} for argument, value in cases(arguments)]:
            argument, value = list(given.items())[-1]
            theirs, _ = optimizer_in_keras(lambda: getattr(keras.optimizers, name)(**given))
            try:
                builder.compile(name, **given)
            except Failure as e:
                if theirs is not None and not is_expected(REFUSED, name, argument, value, str(e)):
                    wrong.append(f"{given} is refused: {e}")
                continue
            builder.save(tmp_path / "ours.keras")
            config = config_of(tmp_path / "ours.keras")["compile_config"]["optimizer"]
            made, why_broken = optimizer_in_keras(lambda: keras.optimizers.deserialize(config))
            written = {k: v for k, v in config["config"].items() if k != "name"}
            if made is None:
                wrong.append(f"{given} is taken: {why_broken[:300]}")
            elif not alike(made, written) or theirs is not None and not alike(made, theirs):
                wrong.append(f"{given}: {differences(written, made)}")
    assert not wrong, "\n".join(wrong)
