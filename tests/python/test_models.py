"""Keras and we agree: every model of the zoo in every format, both ways, and training that goes on from our files."""
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")
import keras
import pytest

import models
from capi import Lib
from hdf5 import assert_same, contents

lib = Lib()
FORMATS = ["weights.h5", "keras", "weights.json"]
WEIGHTS_ONLY = {"weights.h5", "weights.json"}
ONE_HDF5 = {"weights.h5", "keras"}  # and of the same groups; h5py opens a .keras file of ours in place


@functools.cache
def case(name):
    """A model, the values of its variables, and what Keras saves of it."""
    model = models.build(name)
    models.randomize(model, 2)
    tensors, names = models.saved(model)
    return model, models.values(model), tensors, names, models.config(model)


def restored(name):
    """The model with the values that it had at first."""
    model, want, *_ = case(name)
    for variable, value in zip(models.variables(model), want.values()):
        variable.assign(value)
    return model


def test_there_are_enough_of_them():
    assert len(models.MODELS) >= 20 and len({case(name)[4] for name in models.MODELS}) == len(models.MODELS)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", models.MODELS)
def test_keras_loads_what_we_write(name, ending, tmp_path):
    model, want, tensors, names, config = case(name)
    path = tmp_path / f"ours.{ending}"
    lib.save(path, tensors, names, config)
    assert_same(lib.read(path), tensors)
    if ending in ONE_HDF5:
        found, found_names = contents(path)
        assert_same(found, tensors)
        assert found_names == names
    if ending in WEIGHTS_ONLY:
        models.randomize(model, 3)
        assert models.values(model).keys() == want.keys()
        model.load_weights(path)
    else:
        model = keras.models.load_model(path)
    # A second model in one process has other automatic names, so variables are told by their places.
    assert_same(dict(enumerate(models.values(model).values())), dict(enumerate(want.values())))


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", models.MODELS)
def test_we_read_what_keras_writes(name, ending, tmp_path):
    model, (_, _, tensors, _, _) = restored(name), case(name)
    path = tmp_path / f"keras.{ending}"
    if ending == "weights.json":
        largest, all_of_them = max(a.nbytes for a in tensors.values()), sum(a.nbytes for a in tensors.values())
        model.save_weights(path, max_shard_size=max(largest, all_of_them / 3) / 2**30)
        assert len(list(tmp_path.glob("*.h5"))) > 2
    elif ending in WEIGHTS_ONLY:
        model.save_weights(path)
    else:
        model.save(path)
    assert_same(lib.read(path), tensors)


@pytest.fixture(scope="session")
def training(tmp_path_factory):
    """What training.py found, in its own process, while the other tests run."""
    directory = tmp_path_factory.mktemp("training")
    # Programs that are compiled in haste are as deterministic as others.
    haste = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    env = dict(os.environ, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu", JAX_ENABLE_X64="1", XLA_FLAGS=haste)
    script = Path(__file__).with_name("training.py")
    with open(directory / "log", "w") as log:
        run = subprocess.run([sys.executable, script, directory, *FORMATS], env=env, stdout=subprocess.PIPE, stderr=log)
    assert run.returncode == 0, (directory / "log").read_text()
    return json.loads(run.stdout)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", models.MODELS)
def test_training_goes_on(name, ending, training):
    assert training[name][ending] == ""
