"""Keras' legacy .h5, both ways, and the files of former versions."""
import ctypes
import glob
import json
import os
import subprocess
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format

import golden_legacy
import legacy_models
from capi import Failure, Lib
from hdf5 import assert_same
from legacy_models import as_h5, attribute, build, legacy_order, values, weights

lib = Lib()


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level("ERROR")


class Saved:
    """A model in all formats of Keras, and what is in its files."""

    def __init__(self, make, folder):
        self.model = build(make)
        self.model.save(folder / "keras.keras")
        self.model.save_weights(folder / "keras.weights.h5")
        with zipfile.ZipFile(folder / "keras.keras") as z:
            self.config = z.read("config.json").decode()
        self.tensors, self.names = as_h5(folder / "keras.weights.h5")
        self.model.save(folder / "keras.h5")
        order = legacy_order(self.tensors, folder / "keras.h5")
        self.ordered = {path: self.tensors[path] for path in [*order, *self.tensors]}


def predict(model, x):
    return [np.asarray(y).tobytes() for y in keras.tree.flatten(model(x if len(x) > 1 else x[0]))]


def load(path):
    """As load_model, with the optimizer's state: Keras 3 builds the optimizer for no variables when it finds one."""
    keras.utils.clear_session()
    compiled = keras.models.load_model(path)
    model = keras.models.load_model(path, compile=False)
    model.compile(type(compiled.optimizer).from_config(compiled.optimizer.get_config()), compiled.loss)
    model.optimizer.build(model.trainable_variables)
    with h5py.File(path) as f:
        model.optimizer.set_weights(legacy_h5_format.load_optimizer_weights_from_hdf5_group(f))
    return model


# tests/legacy_python.rs has all of them, both ways; here is one for each way in which a file can differ.
SOME = [legacy_models.bidirectional, legacy_models.stacked_cells, legacy_models.spectral, legacy_models.attention,
        legacy_models.nested_and_frozen, legacy_models.custom, legacy_models.branches, legacy_models.quantized_int8]


@pytest.mark.parametrize("make", SOME, ids=lambda f: f.__name__)
def test_keras_loads_what_we_write(make, tmp_path):
    saved = Saved(make, tmp_path)
    ours = tmp_path / "ours.h5"
    lib.save(ours, saved.ordered, saved.names, saved.config)
    assert_same(lib.read(ours), saved.tensors)

    loaded = load(ours)
    for a, b in zip(values(loaded), values(saved.model), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    if make.__name__ != "branches":  # which takes its inputs by name
        x = [np.ones((2, *i.shape[1:]), i.dtype) for i in loaded.inputs]
        keras.utils.clear_session()
        assert predict(loaded, x) == predict(keras.models.load_model(tmp_path / "keras.keras"), x)
    layers = [layer.name for layer in saved.model.layers]
    with h5py.File(ours) as f, h5py.File(tmp_path / "keras.h5") as k:
        assert attribute(f["model_weights"], "layer_names") == layers == attribute(k["model_weights"], "layer_names")
        assert json.loads(f.attrs["model_config"])["config"] == json.loads(saved.config)["config"]


def read_as(path, wanted):
    """The tensors of a file by these paths, however the file calls them."""
    reader = lib.make("ckpt_reader_open", os.fspath(path).encode())
    try:
        found = {}
        for name, like in wanted.items():
            index = lib.make("ckpt_reader_find", reader, name.encode(), kind=ctypes.c_size_t)
            a = np.empty(like.shape, like.dtype)
            lib("ckpt_reader_read", reader, index, ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(a.nbytes))
            found[name] = a
        return found
    finally:
        lib.c.ckpt_reader_free(reader)


def golden(pattern):
    """The golden files, and the weights that are in them by the paths of Keras 3."""
    paths = sorted(glob.glob(os.path.join(os.path.dirname(__file__), "..", "golden", pattern)))
    assert paths
    return [(path, golden_legacy.expected(os.path.basename(path).split("-")[2].split(".")[0])) for path in paths]


@pytest.mark.parametrize("pattern", ["legacy/good/tf-2.15-[!w]*.h5", "keras/good/tf-2.13-*.keras"])
def test_former_versions_are_found_by_the_paths_of_today(pattern):
    for path, tensors in golden(pattern):
        assert_same(read_as(path, tensors), tensors)


def test_keras_agrees_on_what_tensorflow_wrote(tmp_path):
    for path, tensors in golden("legacy/good/tf-2.15-[!w]*.h5"):
        layers = {name: a for name, a in lib.read(path).items() if name.startswith("layers/")}
        assert_same(layers, tensors)
        if "dense" not in path:
            continue  # Keras 3 refuses arguments of the other layers of Keras 2, and its nested models
        keras.utils.clear_session()
        keras.models.load_model(path, compile=False).save_weights(tmp_path / "k.weights.h5")
        assert_same(as_h5(tmp_path / "k.weights.h5")[0], tensors)


def test_what_lora_adds_is_not_taken_for_a_kernel(tmp_path):
    """The weights of the layer are not those that Keras 3 saves: they stay under their names in the file."""
    model = legacy_models.sequential(legacy_models.layers.Dense(3), legacy_models.layers.Dense(2), shape=(4,))
    model.layers[0].enable_lora(2)
    model.save(tmp_path / "k.h5")
    dense, other = ({w.path: np.asarray(w.value) for w in layer.weights} for layer in model.layers)
    wanted = {f"model_weights/{path.split('/')[-2]}/{path}": a for path, a in dense.items()}
    wanted |= {f"layers/dense_1/vars/{i}": a for i, a in enumerate(other.values())}
    assert_same(lib.read(tmp_path / "k.h5"), wanted)


def test_split_lists(tmp_path):
    """Lists of names above 64,512 bytes stand in several attributes."""
    def tall():
        a = keras.Input((2,))
        x = a
        for i in range(70):
            x = legacy_models.layers.Dense(2, name=f"{i:03}" + "n" * 1000)(x)
        return keras.Model(a, x)
    saved = Saved(tall, tmp_path)
    lib.save(tmp_path / "ours.h5", saved.ordered, saved.names, saved.config)
    with h5py.File(tmp_path / "ours.h5") as f, h5py.File(tmp_path / "keras.h5") as k:
        ours, theirs = f["model_weights"].attrs, k["model_weights"].attrs
        assert sorted(ours) == sorted(theirs) and "layer_names1" in ours
        for name in (n for n in ours if n.startswith("layer_names")):
            assert ours[name].dtype == theirs[name].dtype and list(ours[name]) == list(theirs[name])
    assert_same(lib.read(tmp_path / "ours.h5"), saved.tensors)
    assert_same(lib.read(tmp_path / "keras.h5"), saved.tensors)
    loaded = keras.models.load_model(tmp_path / "ours.h5", compile=False)
    assert [w.value.tobytes() for w in loaded.weights] == [w.value.tobytes() for w in saved.model.weights]


def test_many_weights_in_one_layer(tmp_path):
    tensors = {f"layers/big/vars/{i}": np.array([i], "int32") for i in range(4_000)}
    lib.save(tmp_path / "a.h5", tensors, {"layers/big": "big"}, CONFIG)
    assert_same(lib.read(tmp_path / "a.h5"), tensors)
    assert [name for _, name, _ in weights(tmp_path / "a.h5")] == list(tensors)


CONFIG = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": []}})


def test_all_that_is_not_a_weight_stays(tmp_path):
    one = np.ones(1, "float32")
    paths = ["layers/a/vars/0", "layers/a/encoder/table", "layers/b/seed_generator/vars/0", "vars/0", "vars/1",
             "_tracker/x", "other", "optimizer/vars/0", "optimizer/vars/10", "optimizer/vars/2",
             "optimizer/inner_optimizer/vars/0", "layers/c"]
    tensors = {path: one * i for i, path in enumerate(paths)}
    names = {"": "root", "layers/a": "first", "layers/b": "second", "layers/a/encoder": "inside", "optimizer": "adam"}
    lib.save(tmp_path / "a.h5", tensors, names, CONFIG)
    assert_same(lib.read(tmp_path / "a.h5"), tensors)
    assert_same(read_as(tmp_path / "a.h5", tensors), tensors)
    raw = {"model_weights/first/layers/a/vars/0": tensors["layers/a/vars/0"]}
    assert_same(read_as(tmp_path / "a.h5", raw), raw)
    with h5py.File(tmp_path / "a.h5") as f:
        assert attribute(f["model_weights"], "layer_names") == ["first"]
        assert attribute(f["model_weights/first"], "weight_names") == paths[:2]
        assert attribute(f["model_weights/top_level_model_weights"], "weight_names") == ["vars/0", "vars/1"]
        assert attribute(f["optimizer_weights"], "weight_names") == [f"optimizer/vars/{i}" for i in (0, 2, 10)]
        assert f["layers/b/seed_generator/vars/0"][0] == 2 and f["layers/b/vars"].attrs["name"] == "second"
    told = subprocess.run(["h5dump", tmp_path / "a.h5"], capture_output=True)
    assert told.returncode == 0 and not told.stderr, told.stderr


def test_what_cannot_be_written_is_refused(tmp_path):
    x = {f"layers/{name}/vars/0": np.ones(1, "float32") for name in "ab"}
    with pytest.raises(Failure, match="ckpt_model_set_config"):
        lib.save(tmp_path / "a.h5", x)
    with pytest.raises(Failure, match="'layers/a' and 'layers/b' are both called 'x'"):
        lib.save(tmp_path / "a.h5", x, {"layers/a": "x", "layers/b": "x"}, CONFIG)
    with pytest.raises(Failure, match="no room for a layer"):
        lib.save(tmp_path / "a.h5", x, {"layers/a": "x/y"}, CONFIG)
    assert not os.path.exists(tmp_path / "a.h5")


def test_a_part_that_is_frozen_by_itself(tmp_path):
    """It stands behind the others, and only its name says which it is; Keras itself takes it for another."""
    keras.utils.clear_session()
    x = keras.Input((5, 8))
    attention = keras.layers.MultiHeadAttention(2, 4)
    model = keras.Model(x, attention(x, x))
    attention._query_dense.trainable = False
    model.save(tmp_path / "k.h5")
    model.save_weights(tmp_path / "k.weights.h5")
    assert_same(lib.read(tmp_path / "k.h5"), lib.read(tmp_path / "k.weights.h5"))
