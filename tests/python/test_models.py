"""Keras and we agree: every model of the zoo in every format, both ways, and training that goes on from our files."""
import ctypes
import functools
import json
import os
import re
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
FORMATS = ["weights.h5", "keras", "h5", "weights.json"]
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


def write_with_keras(model, path, tensors):
    if path.name.endswith(".weights.json"):
        largest, all_of_them = max(a.nbytes for a in tensors.values()), sum(a.nbytes for a in tensors.values())
        model.save_weights(path, max_shard_size=max(largest, all_of_them / 3) / 2**30)
        assert len(list(path.parent.glob("*.weights.h5"))) > 2
    elif path.name.endswith(".weights.h5"):
        model.save_weights(path)
    else:
        compiled = dict(model._compile_config.config)
        model.save(path)
        model._compile_config.config.update(compiled)  # a save to .h5 takes the optimizer out of it


def write_with_us(path, tensors, names, config):
    if path.name.endswith(".weights.json"):
        all_of_them = sum(a.nbytes for a in tensors.values())
        lib.save(path, tensors, names, config, max_shard_bytes=ctypes.c_uint64(all_of_them // 3 + 1))
        assert len(list(path.parent.glob("*.weights.h5"))) > 2
    else:
        lib.save(path, tensors, names, config)


def assert_keras_loads(path, name):
    """Keras gets the values of the case from the file."""
    model, want, *_ = case(name)
    if ".weights." in path.name:
        models.randomize(model, 3)
        assert models.values(model).keys() == want.keys()
        model.load_weights(path)
    else:
        model = models.load(path)
    # A second model in one process has other automatic names, so variables are told by their places.
    assert_same(dict(enumerate(models.values(model).values())), dict(enumerate(want.values())))


# What Keras 3.15 itself cannot do in the legacy format.
CANNOT_WRITE = {
    "embedding": "Adafactor's variables have the same name",
    "low_precision": "nothing says that two bytes are a bfloat16",
    "subclassed": "the file says nothing of the attributes that hold the layers",
}
CANNOT_LOAD = {  # though we do
    "low_precision": "nothing says that two bytes are a bfloat16",
    "subclassed": "the model has no variables before it is built",
}


def pairs(legacy_cannot):
    """Models and formats, without what Keras cannot do."""
    return [(name, ending) for name in models.MODELS for ending in FORMATS if ending != "h5" or name not in legacy_cannot]


@pytest.mark.parametrize("name, ending", pairs(CANNOT_LOAD))
def test_keras_loads_what_we_write(name, ending, tmp_path):
    _, _, tensors, names, config = case(name)
    path = tmp_path / f"ours.{ending}"
    write_with_us(path, tensors, names, config)
    assert_same(lib.read(path), tensors)
    assert lib.names(path) == names
    if ending in ONE_HDF5:
        found, found_names = contents(path)
        assert_same(found, tensors)
        assert found_names == names
    assert_keras_loads(path, name)


@pytest.mark.parametrize("name, ending", pairs(CANNOT_WRITE))
def test_we_read_what_keras_writes(name, ending, tmp_path):
    model, (_, _, tensors, names, _) = restored(name), case(name)
    path = tmp_path / f"keras.{ending}"
    write_with_keras(model, path, tensors)
    if ending == "h5":
        tensors, names = as_legacy(tensors, names)
    assert_same(lib.read(path), tensors)
    assert lib.names(path) == names


def as_legacy(tensors, names):
    """What a legacy file of Keras has of a model."""
    # The inner optimizer's variables once, and of the names those of the model's own layers.
    tensors = {path: a for path, a in tensors.items() if not path.startswith("optimizer/inner_optimizer/")}
    names = {group: name for group, name in names.items() if re.fullmatch("layers/[^/]+", group)}
    # Layers within a layer of the user's own are not in the configuration: they are the layer's, in their order.
    listed = {}
    for path in tensors:
        own = re.match("layers/blocks(_1)?/", path)
        group = f"{own[0]}vars" if own else os.path.dirname(path)
        listed.setdefault(group, []).append(path)
    renamed = {path: f"{group}/{i}" for group, paths in listed.items() for i, path in enumerate(paths)
               if group.startswith("layers/blocks")}
    return {renamed.get(path, path): a for path, a in tensors.items()}, names


@pytest.mark.parametrize("name", CANNOT_WRITE.keys() - CANNOT_LOAD.keys())
def test_what_keras_cannot_write(name, tmp_path):
    with pytest.raises(ValueError):
        restored(name).save(tmp_path / "keras.h5")


@pytest.mark.parametrize("name", CANNOT_LOAD)
def test_what_keras_cannot_load(name, tmp_path):
    restored(name).save(tmp_path / "keras.h5")
    with pytest.raises(ValueError):
        keras.models.load_model(tmp_path / "keras.h5", custom_objects={"Subclassed": models.Subclassed})


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


@pytest.mark.parametrize("name, ending", pairs(CANNOT_LOAD))
def test_training_goes_on(name, ending, training):
    assert training[name][ending] == ""
