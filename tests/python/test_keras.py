"""What Keras' own loader checks, and that our files pass it. The models are in test_models.py.

`keras.src.saving.saving_lib` reads a `.keras` file so: the zip directory; config.json, no zip bomb, from which it makes the
model (our `ckpt_model_set_config` has looked for what that needs); model.weights.h5, no zip bomb, read into memory, or
unpacked, or read in place; with more than three members all of them are unpacked, each no bomb and none outside the
directory; every group and dataset reached by hard links alone, no dataset external, virtual or a bomb; as many variables
in a group as the layer has, of its shapes; what fails for one object fails the load.
"""
import json
import os
import subprocess
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import ctypes
import h5py
import keras
import numpy as np
import pytest
from keras import layers
from keras.src.saving import saving_lib
from keras.src.utils import file_utils

import models
from capi import Failure, Lib
from hdf5 import assert_same, contents

lib = Lib()


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


FILES = {"vocabulary.txt": b"the\nquick\n", "größe/✓.bin": np.arange(100_000, dtype="uint32").tobytes(), "empty": b"",
         "n" * 255: b"the longest name of a file"}


@pytest.fixture
def with_assets(tmp_path):
    """A model with assets and an optimizer: Keras' file of it, ours, the values, the tensors."""
    keras.utils.clear_session()
    model = keras.Sequential([layers.Input((2,)), Vocabulary(), layers.Dense(2, name="größe ✓"), Vocabulary()])
    model.layers[0].files, model.layers[2].files = FILES, {"other": b"\0\xff"}
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    models.randomize(model, 2)
    model.save(tmp_path / "keras.keras")
    with zipfile.ZipFile(tmp_path / "keras.keras") as z:
        assets = {n.removeprefix("assets/"): z.read(n) for n in z.namelist() if n.startswith("assets/")}
    assert sorted(assets) == sorted([*(f"layers/vocabulary/{n}" for n in FILES), "layers/vocabulary_1/other"])
    tensors, names = models.saved(model)
    lib.save(tmp_path / "ours.keras", tensors, names, models.config(model), assets)
    return tmp_path / "ours.keras", models.values(model), tensors, assets


def assert_loaded(model, values):
    assert_same(dict(enumerate(models.values(model).values())), dict(enumerate(values.values())))
    assert model.layers[0].files == FILES
    assert model.layers[2].files == {"other": b"\0\xff"}


@pytest.mark.parametrize("way", ["in memory", "unpacked", "in place"])
def test_keras_loads_it_in_all_its_ways(way, with_assets, monkeypatch):
    path, values, tensors, _ = with_assets
    assert_same(lib.read(path.with_name("keras.keras")), tensors)
    assert_same(lib.read(path), tensors)
    assert_same(contents(path)[0], tensors)
    taken = []

    def make(self, where, archive=None, mode="r", init=saving_lib.H5IOStore.__init__):
        if way == "in place" and archive is None:
            raise OSError("no room to unpack")
        taken.append((type(where).__name__, archive is not None))
        init(self, where, archive, mode)
    monkeypatch.setattr(saving_lib, "is_memory_sufficient", lambda model: way == "in memory")
    monkeypatch.setattr(saving_lib.H5IOStore, "__init__", make)
    assert_loaded(keras.models.load_model(path), values)
    expected = {"in memory": ("BytesIO", False), "unpacked": ("PosixPath", False), "in place": ("str", True)}
    assert taken == [expected[way]]


def test_every_guard_of_keras_lets_it_pass(with_assets, tmp_path):
    path, _, tensors, assets = with_assets
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            saving_lib._reject_zip_bomb(archive, name)
        saving_lib._reject_zip_extract_bomb(archive)
        safe = list(file_utils.filter_safe_zipinfos(archive.infolist(), tmp_path / "unpacked"))
        assert len(safe) == 3 + len(assets)
        with archive.open("model.weights.h5") as member, h5py.File(member) as f:
            seen = []

            def visit(name, node):
                safely = saving_lib.safe_get_h5_dataset if isinstance(node, h5py.Dataset) else saving_lib.safe_get_h5_group
                assert safely(f, name) == node
                seen.append(name)
            f.visititems(visit)
            assert set(tensors) < set(seen) and "libckpt/state" in seen


def test_an_asset_that_no_one_could_unpack_is_refused():
    model = lib.model({})
    for name in ["n" * 256, "a/" + "é" * 128, "../up", "/root", "a\\b", "d/" * 2000 + "x"]:
        with pytest.raises(Failure, match="CKPT_E_INVALID_ARGUMENT.*asset name"):
            lib("ckpt_model_set_asset", model, name.encode(), b"", ctypes.c_size_t(0))
    lib.c.ckpt_model_free(model)


def test_what_keras_misses_it_says(tmp_path):
    """The loader's last checks: a variable too few, and one of another shape."""
    model = models.build("dense")
    tensors, names = models.saved(model)
    short = {path: a for path, a in tensors.items() if path != "layers/dense/vars/1"}
    other = tensors | {"layers/dense/vars/1": np.zeros(5, "float32")}
    for wrong in (short, other):
        lib.save(tmp_path / "x.keras", wrong, names, models.config(model))
        with pytest.raises(ValueError, match="could not be loaded"):
            keras.models.load_model(tmp_path / "x.keras")


@pytest.mark.parametrize("ending", ["weights.h5", "keras"])
def test_keras_editor_opens_it_and_we_read_what_it_saves(ending, tmp_path):
    model = models.build("dense")
    models.randomize(model, 2)
    tensors, names = models.saved(model)
    lib.save(tmp_path / f"x.{ending}", tensors, names, models.config(model))
    editor = keras.saving.KerasFileEditor(str(tmp_path / f"x.{ending}"))
    editor.add_object("layers/another", {"0": np.ones(3, "float32")})
    editor.save(str(tmp_path / "edited.weights.h5"))
    found = lib.read(tmp_path / "edited.weights.h5")
    added = found.pop("layers/another/vars/0")
    assert added.tolist() == [1, 1, 1]
    assert_same(found, tensors)
