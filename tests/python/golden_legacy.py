"""Makes the golden files of former versions: golden_legacy.py DIRECTORY, in an environment with TensorFlow 2.15 or 2.13
(Python 3.11; `pip install tensorflow-cpu==2.15.*`); with Keras 3 alone, the legacy file of our own. The test imports it with Keras 3 for what the files hold: the
values are small integers that follow from the order of the variables, and the paths of Keras 3 are written down here.
"""
import io
import json
import os
import sys
import zipfile
import zlib

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import h5py
import numpy as np

try:
    import tensorflow as tf
    from tensorflow import keras
except ImportError:
    import keras
layers = keras.layers


def dense():
    return (keras.Sequential([layers.Input((3,)), layers.Dense(2, name="hidden"), layers.Dropout(0.1), layers.Dense(1)]),
            ["layers/dense/vars/0", "layers/dense/vars/1", "layers/dense_1/vars/0", "layers/dense_1/vars/1"])


def convolutional():
    return (keras.Sequential([layers.Input((5, 5, 1)), layers.Conv2D(2, 2), layers.BatchNormalization(),
                              layers.SeparableConv2D(1, 2)]),
            [f"layers/{x}/vars/{i}" for x, n in (("conv2d", 2), ("batch_normalization", 4), ("separable_conv2d", 3))
             for i in range(n)])


def recurrent():
    return (keras.Sequential([layers.Input((3,), dtype="int32"), layers.Embedding(4, 2),
                              layers.Bidirectional(layers.LSTM(1, return_sequences=True)), layers.GRU(1)]),
            ["layers/embedding/vars/0", *(f"layers/bidirectional/{d}_layer/cell/vars/{i}" for d in ("forward", "backward")
                                          for i in range(3)), *(f"layers/gru/cell/vars/{i}" for i in range(3))])


def two_inputs():
    a, b = keras.Input((2,), name="a"), keras.Input((3, 2), name="b")
    x = layers.MultiHeadAttention(1, 2)(b, b)
    x = layers.TimeDistributed(layers.Dense(2))(x)
    x = layers.Concatenate()([layers.Dense(1)(a), layers.GlobalAveragePooling1D()(x)])
    model = keras.Model([a, b], layers.Dense(1, name="out")(x))
    parts = {"multi_head_attention": [f"layers/multi_head_attention/{p}_dense/vars/{i}"
                                      for p in ("query", "key", "value", "output") for i in range(2)],
             "time_distributed": ["layers/time_distributed/layer/vars/0", "layers/time_distributed/layer/vars/1"]}
    denses = iter(("layers/dense", "layers/dense_1"))
    paths = []
    for layer in model.layers:
        if layer.name in parts:
            paths += parts[layer.name]
        elif layer.weights:
            x = next(denses)
            paths += [f"{x}/vars/0", f"{x}/vars/1"]
    return model, paths


def nested():
    inner = keras.Sequential([layers.Input((2,)), layers.Dense(2, name="first"), layers.BatchNormalization(),
                              layers.Dense(2), layers.Dense(2)], name="inner")
    i = keras.Input((2,))
    outer = keras.Model(i, layers.Dense(1)(inner(i)), name="outer")
    a = keras.Input((2,))
    model = keras.Model(a, outer(a))
    deep = "layers/functional/layers/sequential/layers"
    return model, [*(f"{deep}/dense/vars/{i}" for i in range(2)), *(f"{deep}/batch_normalization/vars/{i}" for i in range(4)),
                   *(f"{deep}/dense_{n}/vars/{i}" for n in (1, 2) for i in range(2)),
                   "layers/functional/layers/dense/vars/0", "layers/functional/layers/dense/vars/1"]


def fill(variables, start):
    for k, v in enumerate(variables):
        dtype = np.dtype(v.dtype if isinstance(v.dtype, str) else v.dtype.as_numpy_dtype)
        n = int(np.prod(v.shape))
        v.assign((np.arange(n) % 50 + start + k).reshape(tuple(v.shape)).astype(dtype))


def flat_weights(layer):
    """The weights part by part, as Keras 3 saves them, in any version."""
    below = [x for x in getattr(layer, "layers", [])]
    return [w for x in below for w in flat_weights(x)] if below else list(layer.weights)


def made(make):
    """A model, its weights and their paths."""
    keras.backend.clear_session()
    model, paths = make()
    weights = [w for layer in model.layers for w in flat_weights(layer)]
    assert len(weights) == len(paths), (make, [w.name for w in weights], paths)
    fill(weights, 1)
    return model, weights, paths


def expected(name):
    """The weights in the files of a model, by the paths of Keras 3."""
    _, weights, paths = made(globals()[name])
    return {path: np.asarray(w) for path, w in zip(paths, weights)}


def describe(path, tensors):
    with open(path + ".expected", "w") as f:
        for name, a in tensors.items():
            f.write(f"{name} {a.dtype} {list(a.shape)} {zlib.crc32(a.tobytes()):08x}\n".replace(", ", ","))


def in_file(source):
    found = {}
    with h5py.File(source) as f:
        f.visititems(lambda name, x: found.__setitem__(name, x[()]) if isinstance(x, h5py.Dataset) else None)
    return found


def legacy(folder):
    for make in (dense, convolutional, recurrent, two_inputs, nested):
        model, weights, paths = made(make)
        tensors = dict(zip(paths, weights))
        if make is dense:
            model.compile("adam", "mean_squared_error")
            model.optimizer.build(model.trainable_variables)
            fill(model.optimizer.variables, 100)
            tensors.update({f"optimizer/vars/{i}": v for i, v in enumerate(model.optimizer.variables)})
            path = os.path.join(folder, "tf-2.15-weights.h5")
            model.save_weights(path)  # the legacy format of the weights alone
            describe(path, in_file(path))
        path = os.path.join(folder, f"tf-2.15-{make.__name__}.h5")
        model.save(path)
        describe(path, {name: np.asarray(v) for name, v in tensors.items()})


def former(folder):
    for make in (two_inputs, nested):
        path = os.path.join(folder, f"tf-2.13-{make.__name__}.keras")
        made(make)[0].save(path, save_format="keras")
        with zipfile.ZipFile(path) as z:
            describe(path, in_file(io.BytesIO(z.read("model.weights.h5"))))


def ours(folder):
    from capi import Lib
    model, weights, paths = made(nested)
    order = sorted(range(len(paths)), key=lambda i: i in (4, 5))  # the moving statistics behind what is trained
    tensors = {paths[i]: np.asarray(weights[i]) for i in order}
    tensors["optimizer/vars/0"] = np.array(7, "int32")
    tensors["layers/dropout/seed_generator/vars/0"] = np.array([1, 2], "uint32")
    config = json.dumps(keras.saving.serialize_keras_object(model))
    path = os.path.join(folder, "libckpt-0.1-nested.h5")
    Lib().save(path, tensors, {"layers/functional": "outer"}, config)
    describe(path, tensors)
    with open(path + ".expected", "a") as f:
        # The configuration names the layer without weights.
        f.write(f"@name layers/functional/vars outer\n@name layers/input_layer/vars {model.layers[0].name}\n")
        f.write(f"@config {zlib.crc32(config.encode()):08x}\n")


if __name__ == "__main__":
    version = tf.__version__[:4] if "tf" in globals() else "ours"
    {"2.15": legacy, "2.13": former, "ours": ours}[version](sys.argv[1])
