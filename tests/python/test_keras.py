"""Keras judges the files: what we write, it loads bit for bit, optimizer included; what it writes, we read."""
import json
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest
from keras import layers

from capi import Lib

lib = Lib()


def dense():
    return keras.Sequential([layers.Input((5,)), layers.Dense(4, "relu"), layers.Dropout(0.1), layers.Dense(3)])


def convolutional():
    return keras.Sequential([
        layers.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.ReLU(),
        layers.DepthwiseConv2D(3), layers.SeparableConv2D(5, 2), layers.GlobalAveragePooling2D(), layers.Flatten(),
        layers.Dense(2)])


def recurrent():
    return keras.Sequential([
        layers.Input((6,), dtype="int32"), layers.Embedding(11, 4), layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.GRU(5), layers.LayerNormalization(), layers.Dense(2)])


def functional():
    a, b = keras.Input((4,), name="a"), keras.Input((6, 4), name="b")
    att = layers.MultiHeadAttention(2, 3)(b, b)
    x = layers.Concatenate()([a, layers.GlobalAveragePooling1D()(att)])
    return keras.Model([a, b], [layers.Dense(1, name="left")(x), layers.Dense(2, name="right")(x)])


def nested():
    inner = keras.Sequential([layers.Input((4,)), layers.Dense(4, name="inner_dense")], name="inner")
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2)(inner(inner(x))))


def mixed():
    return keras.Sequential([layers.Input((4,)), layers.Dense(3, dtype="mixed_bfloat16"),
                             layers.Dense(3, dtype="bfloat16"), layers.Dense(2, dtype="float16"),
                             layers.Dense(2, dtype="float64")])


def one_layer():
    return keras.Sequential([layers.Input((2,)), layers.Dense(1, name="größe ✓")])


MODELS = [dense, convolutional, recurrent, functional, nested, mixed, one_layer]


def build(make):
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = make()
    model.compile(optimizer=keras.optimizers.AdamW(1e-3), loss="mse", metrics=["mae"])
    model.optimizer.build(model.trainable_variables)
    randomize(model, 2)
    return model


def variables(model):
    return [*model.weights, *model.optimizer.variables]


def randomize(model, seed):
    rng = np.random.default_rng(seed)
    for v in variables(model):
        kind = np.dtype("float32") if "float" in str(v.dtype) else np.dtype(str(v.dtype))
        value = np.abs(rng.standard_normal(v.shape)) if kind.kind == "f" else rng.integers(0, 100, v.shape)
        v.assign(np.asarray(value).astype(kind))


def as_h5(path):
    """What a file holds: {path: array} and {group: name}."""
    tensors, names = {}, {}

    def visit(path, node):
        if path.split("/")[0] == "libckpt":
            return
        if isinstance(node, h5py.Dataset):
            raw = np.asarray(node[()], order="C")
            if node.attrs.get("dtype") == "bfloat16":
                import ml_dtypes
                raw = raw.view(ml_dtypes.bfloat16).reshape(node.shape)
            tensors[path] = raw
        elif "name" in node.attrs:
            assert path == "vars" or path.endswith("/vars")
            names[path[:-len("/vars")] if path != "vars" else ""] = node.attrs["name"]
    with h5py.File(path, "r") as f:
        f.visititems(visit)
    return tensors, names


def assert_same(a, b):
    assert sorted(a) == sorted(b)
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        assert a[path].shape == b[path].shape, path
        assert a[path].tobytes() == b[path].tobytes(), path


def values(model):
    return {f"{i} {v.path}": np.asarray(v.value) for i, v in enumerate(variables(model))}


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_keras_loads_what_we_write(make, tmp_path):
    model = build(make)
    want = values(model)
    model.save(tmp_path / "keras.keras")
    with zipfile.ZipFile(tmp_path / "keras.keras") as z:
        z.extract("model.weights.h5", tmp_path)
        config = z.read("config.json").decode()
    tensors, names = as_h5(tmp_path / "model.weights.h5")

    lib.save(tmp_path / "ours.weights.h5", tensors, names)
    lib.save(tmp_path / "ours.keras", tensors, names, config)
    for ours in ("ours.weights.h5", "ours.keras"):  # h5py opens a .keras of ours in place
        got, got_names = as_h5(tmp_path / ours)
        assert_same(got, tensors)
        assert got_names == names
        assert_same(lib.read(tmp_path / ours), tensors)

    randomize(model, 3)
    model.load_weights(tmp_path / "ours.weights.h5")
    assert_same(values(model), want)
    keras.utils.clear_session()
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert_same(dict(zip(want, values(loaded).values())), want)

    x = [np.ones((2, *i.shape[1:]), i.dtype) for i in loaded.inputs]
    assert predict(loaded, x) == predict(model, x)


def predict(model, x):
    out = model(x if len(x) > 1 else x[0])
    return [np.asarray(o).tobytes() for o in (out if isinstance(out, list) else [out])]


@pytest.mark.parametrize("make", MODELS, ids=lambda f: f.__name__)
def test_we_read_what_keras_writes(make, tmp_path):
    model = build(make)
    model.save_weights(tmp_path / "k.weights.h5")
    model.save(tmp_path / "k.keras")
    tensors, _ = as_h5(tmp_path / "k.weights.h5")
    for name in ("k.weights.h5", "k.keras"):
        assert_same(lib.read(tmp_path / name), tensors)


def test_the_archive_is_keras_own(tmp_path):
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "é", "layers": []}})
    lib.save(tmp_path / "a.keras", {"x": np.arange(3, dtype="float32")}, config=config)
    with zipfile.ZipFile(tmp_path / "a.keras") as z:
        assert z.testzip() is None
        assert sorted(z.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        assert z.read("config.json").decode() == config
        metadata = json.loads(z.read("metadata.json"))
        assert sorted(metadata) == ["date_saved", "keras_version"]
        import datetime
        saved = datetime.datetime.strptime(metadata["date_saved"], "%Y-%m-%d@%H:%M:%S")
        assert abs(datetime.datetime.now() - saved) < datetime.timedelta(minutes=10)
        weights = next(i for i in z.infolist() if i.filename == "model.weights.h5")
        data = open(tmp_path / "a.keras", "rb").read()
        assert data[4096:4104] == b"\x89HDF\r\n\x1a\n"
        assert data[4096:4096 + weights.file_size] == z.read("model.weights.h5")
