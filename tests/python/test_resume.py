"""Resuming from files that Keras wrote, and Keras with files that carry the trainer's own state."""
import ctypes
import json
import os

os.environ.setdefault("KERAS_BACKEND", "numpy")

import keras
import numpy as np
import pytest

import capi


class Info(ctypes.Structure):
    _fields_ = [("epoch", ctypes.c_uint64), ("batch", ctypes.c_uint64), ("has_best", ctypes.c_bool),
                ("best", ctypes.c_double), ("path", ctypes.c_char_p)]


@pytest.fixture(scope="module")
def lib():
    return capi.Lib()


def network():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a"), keras.layers.Dense(1, name="b")])
    for i, variable in enumerate(model.variables):
        variable.assign(np.arange(np.prod(variable.shape)).reshape(variable.shape) + 10 * i)
    return model


def tensors(model):
    paths = ["layers/dense/vars/0", "layers/dense/vars/1", "layers/dense_1/vars/0", "layers/dense_1/vars/1"]
    return {path: np.array(variable) for path, variable in zip(paths, model.variables)}


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5", ".weights.json"])
def test_what_can_be_known_of_a_file_of_keras(lib, tmp_path, ending):
    template = str(tmp_path / ("{epoch:03d}" + ending))
    whole = ending in (".keras", ".h5")
    path = template.format(epoch=7)
    source = network()
    source.save(path) if whole else source.save_weights(path, max_shard_size=1 if ending.endswith("json") else None)
    values = {path: np.zeros_like(value) for path, value in tensors(source).items()}
    model = lib.model(values, names={"layers/dense": "a", "layers/dense_1": "b"})
    handle = lib.make("ckpt_options_new")
    lib("ckpt_options_set_save_weights_only", handle, ctypes.c_bool(not whole))
    lib("ckpt_options_set_save_best_only", handle, ctypes.c_bool(True))
    lib("ckpt_options_set_initial_value_threshold", handle, ctypes.c_double(0.25))
    keeper = lib.make("ckpt_new", template.encode(), handle)
    info = lib.make("ckpt_resume", keeper, model, kind=Info)
    # The values are loaded; the policy is that of a new session.
    assert (info.epoch, info.batch, info.path.decode()) == (0, 0, path)
    assert info.has_best and info.best == 0.25
    for name, expected in tensors(source).items():
        np.testing.assert_array_equal(values[name], expected)


@pytest.mark.parametrize("ending", [".keras", ".h5", ".weights.h5", ".weights.json"])
def test_keras_loads_files_with_state_of_the_trainers(lib, tmp_path, ending):
    source = network()
    whole = ending in (".keras", ".h5")
    path = str(tmp_path / ("m" + ending))
    handle = lib.make("ckpt_options_new")
    lib("ckpt_options_set_save_weights_only", handle, ctypes.c_bool(not whole))
    lib("ckpt_options_set_max_shard_bytes", handle, ctypes.c_uint64(16))
    keeper = lib.make("ckpt_new", path.encode(), handle)
    for key, n in [(b"rng", 5056), (b"position", 8), (b"big", 2_000_000), (b"none", 0)]:
        lib("ckpt_set_state", keeper, key, bytes(n), ctypes.c_size_t(n))
    values = tensors(source)
    config = keras.saving.serialize_keras_object(source)
    model = lib.model(values, names={"layers/dense": "a", "layers/dense_1": "b"},
                      config=json.dumps(config))
    lib("ckpt_on_epoch_end", keeper, ctypes.c_uint64(0), None, ctypes.c_size_t(0))
    lib("ckpt_save", keeper, model)
    fresh = network()
    for variable in fresh.variables:
        variable.assign(np.zeros(variable.shape))
    if whole:
        fresh = keras.models.load_model(path)
    else:
        fresh.load_weights(path)
    for variable, expected in zip(fresh.variables, values.values()):
        np.testing.assert_array_equal(np.array(variable), expected)
