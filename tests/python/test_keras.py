"""Keras judges the files: what we write, it loads bit for bit, optimizer included; what it writes, we read."""
import ctypes
import json
import os
import subprocess
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest
from keras import layers

from capi import Failure, Lib

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


@keras.saving.register_keras_serializable("ckpt_tests")
class Vocabulary(layers.Layer):
    """A layer with files beside its weights."""

    files = {}

    def build(self, shape):
        self.scale = self.add_weight(shape=(2,), name="scale")

    def call(self, x):
        return x * self.scale

    def save_assets(self, directory):
        for name, data in self.files.items():
            path = os.path.join(directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(data)

    def load_assets(self, directory):
        self.files = {}
        for where, _, names in os.walk(directory):
            for path in (os.path.join(where, name) for name in names):
                with open(path, "rb") as f:
                    self.files[os.path.relpath(path, directory)] = f.read()


FILES = {"vocabulary.txt": b"the\nquick\n", "größe/✓.bin": np.arange(100_000, dtype="uint32").tobytes(), "empty": b""}


def with_assets():
    model = keras.Sequential([layers.Input((2,)), Vocabulary(), layers.Dense(2), Vocabulary()])
    model.layers[0].files, model.layers[2].files = FILES, {"other": b"\0\xff"}
    return model


def test_keras_loads_our_assets(tmp_path):
    model = build(with_assets)
    want = values(model)
    model.save(tmp_path / "keras.keras")
    with zipfile.ZipFile(tmp_path / "keras.keras") as z:
        z.extract("model.weights.h5", tmp_path)
        config = z.read("config.json").decode()
        assets = {n: z.read(n) for n in z.namelist() if n.startswith("assets/")}
    assert sorted(assets) == sorted([*(f"assets/layers/vocabulary/{n}" for n in FILES),
                                     "assets/layers/vocabulary_1/other"])
    tensors, names = as_h5(tmp_path / "model.weights.h5")
    assert_same(lib.read(tmp_path / "keras.keras"), tensors)
    given = {name.removeprefix("assets/"): data for name, data in assets.items()}
    lib.save(tmp_path / "ours.keras", tensors, names, config, given)

    with zipfile.ZipFile(tmp_path / "ours.keras") as z:
        assert z.testzip() is None
        assert z.namelist() == ["model.weights.h5", "metadata.json", "config.json",
                                *sorted(assets, key=lambda name: name.encode())]
        assert all(i.compress_type == zipfile.ZIP_STORED for i in z.infolist())
        assert {n: z.read(n) for n in assets} == assets
    told = subprocess.run(["unzip", "-t", tmp_path / "ours.keras"], capture_output=True)
    assert told.returncode == 0, told
    assert_same(lib.read(tmp_path / "ours.keras"), tensors)
    assert_same(as_h5(tmp_path / "ours.keras")[0], tensors)

    keras.utils.clear_session()
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert_same(dict(zip(want, values(loaded).values())), want)
    assert loaded.layers[0].files == FILES
    assert loaded.layers[2].files == {"other": b"\0\xff"}


def test_assets_of_one_model(tmp_path):
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": []}})
    x = {"x": np.arange(3, dtype="float32")}
    model = lib.model(x, config=config, assets={"a/b": b"first"})

    def saved(name="a.keras"):
        lib("ckpt_model_save", model, os.fspath(tmp_path / name).encode())
        with open(tmp_path / name, "rb") as f:
            if not zipfile.is_zipfile(f):
                return None
        with zipfile.ZipFile(tmp_path / name) as z:
            return {n: z.read(n) for n in z.namelist()[3:]}

    def put(name, data):
        data = ctypes.create_string_buffer(data, len(data)) if data is not None else None
        lib("ckpt_model_set_asset", model, name.encode(), data, ctypes.c_size_t(len(data) if data else 0))
        if data:
            ctypes.memset(data, 0, len(data))  # it was copied

    assert saved() == {"assets/a/b": b"first"}
    put("a/b", b"second")
    put("c", None)
    assert saved() == {"assets/a/b": b"second", "assets/c": b""}
    with pytest.raises(Failure, match="cannot be a directory"):
        put("a", b"")
    assert saved() == {"assets/a/b": b"second", "assets/c": b""}
    assert saved("a.weights.h5") is None
    lib.save(tmp_path / "b.weights.h5", x)
    assert (tmp_path / "a.weights.h5").read_bytes() == (tmp_path / "b.weights.h5").read_bytes()
    lib.c.ckpt_model_free(model)
