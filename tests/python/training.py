"""Trains every model of the zoo, goes on from our files in another model, and compares bit for bit.

    KERAS_BACKEND=jax training.py DIRECTORY FORMAT...

Prints {model: {format: "" or what differs}} as JSON: test_models.py runs it, in a process of its own since a process has
one backend, and only jax among those that are installed trains.
"""
import json
import os
import sys
import traceback

import jax
import keras
import numpy as np

import models
from capi import Lib

STEPS = 2  # before the file, and after: the second loss after it shows the optimizer's state


def data(model):
    """A batch for the model, always the same."""
    rng = np.random.default_rng(5)

    def draw(spec):
        shape = (4, *spec.shape[1:])
        return rng.integers(0, 9, shape).astype("int32") if "int" in spec.dtype else rng.standard_normal(shape).astype(spec.dtype)
    if isinstance(model, models.Subclassed):
        x, y = model.specs
    elif isinstance(model, keras.Sequential):
        (x,), (y,) = model.inputs, model.outputs
    else:
        x, y = model.input, model.output
    return keras.tree.map_structure(draw, x), keras.tree.map_structure(draw, y)


def train(model):
    """The losses of the next steps: all bits of them."""
    x, y = data(model)
    losses = [model.train_on_batch(x, y) for _ in range(STEPS)]
    return [np.asarray(loss).tobytes().hex() for loss in losses]


def seeds(model):
    """The seed generators' states. No format of Keras' has them: a run that resumes sets them."""
    return [v for v in model.variables if "seed_generator" in v.path]


def loaded(path, fresh):
    """A model with all that the file has; weights go into the fresh one, which is long in compiling."""
    if "weights" not in os.path.basename(path):
        return models.load(path)
    models.randomize(fresh, 9)
    fresh.load_weights(path)
    return fresh


def differences(a, b):
    return [key for key, other in zip(a, b.values()) if a[key].tobytes() != other.tobytes()]


def resume(name, directory, formats, lib):
    model = models.build(name)
    train(model)
    tensors, names = models.saved(model)
    config = models.config(model)
    states = [np.asarray(v) for v in seeds(model)]
    paths = {ending: os.path.join(directory, f"{name}.{ending}") for ending in formats}
    for path in paths.values():
        lib.save(path, tensors, names, config)
    expected, end = train(model), models.values(model)
    assert len(set(expected)) == STEPS and len(set(tensors)) > 2
    results, fresh = {}, models.build(name)
    for ending, path in paths.items():
        try:
            results[ending] = goes_on(loaded(path, fresh), states, expected, end)
        except Exception:
            results[ending] = traceback.format_exc()
    return results


def goes_on(model, states, expected, end):
    """What differs when the model is trained on."""
    for v, state in zip(seeds(model), states, strict=True):
        v.assign(state)
    found = train(model)
    wrong = differences(end, models.values(model))
    return "" if found == expected and not wrong else f"losses {found}, not {expected}; {wrong} differ"


def main(directory, formats):
    # What is compiled for one model is found again for all that are like it.
    jax.config.update("jax_compilation_cache_dir", os.path.join(directory, "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    lib, results = Lib(), {}
    for name in models.MODELS:
        results[name] = resume(name, directory, formats, lib)
        print(name, results[name], file=sys.stderr, flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
