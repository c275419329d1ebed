"""libtorch and Keras agree: Sequential models give the same outputs, and trainings go on in libtorch as they were."""
import sys
from pathlib import Path

import pytest

from in_jax import run
from test_examples import built, installed  # noqa: F401, a fixture

ROOT = Path(__file__).resolve().parents[2]
MODELS = 50

# Each model in Keras, against what libtorch gave; Keras has the channels last, also of what comes out.
COMPARES = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import keras, numpy as np
from capi import Lib
lib, worst = Lib(), 0
texts = open("models.txt").read().split("\\n)\\n")
for number in range({MODELS}):
    model = keras.models.load_model(f"{{number}}.keras")
    x, y = (lib.read(f"{{number}}.safetensors")[name] for name in "xy")
    if number % 5 in (0, 1):
        last = (0, *range(2, x.ndim), 1)
        x, y = x.transpose(last), y.transpose(last) if y.ndim == x.ndim else y
    found = np.asarray(model(x))
    assert found.shape == y.shape, texts[number]
    error = np.abs(found - y).max() / np.abs(y).max()
    assert error <= 1e-4, (error, texts[number])
    worst = max(worst, error)
print(f"{{worst:.1e}} is the largest relative difference")
"""


@pytest.fixture(scope="module")
def programs(installed, tmp_path_factory):
    return built("../tests/torch", installed, tmp_path_factory.mktemp("torch"))


def test_sequential_models_give_the_same_outputs(programs, tmp_path):
    print(run(programs / "sequential", 1, MODELS, tmp_path, cwd=tmp_path))
    print(run(sys.executable, "-c", COMPARES, cwd=tmp_path))


def test_training_goes_on(programs, tmp_path):
    run(programs / "training", cwd=tmp_path)
