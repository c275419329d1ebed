"""libtorch and Keras agree: Sequential models give the same outputs, and trainings go on in libtorch as they were."""
import re
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from examples import built, installed, names, trains  # noqa: F401, fixtures
from in_jax import run

ROOT = Path(__file__).resolve().parents[2]
MODELS = 50

# Models of one type; where jax is to know float64, Keras' GRU is none of float32.
BEGIN = f"""
import os, sys
os.environ["JAX_ENABLE_X64"] = str(int(sys.argv[1] == "float64"))
sys.path.insert(0, {str(Path(__file__).parent)!r})
import keras, numpy as np
from capi import Lib
lib = Lib()
def same(path, channels, text):
    model = keras.models.load_model(f"{{path}}.keras")
    x, y = (lib.read(f"{{path}}.safetensors")[name] for name in "xy")
    if channels:  # Keras has them last, also of what comes out
        last = (0, *range(2, x.ndim), 1)
        x, y = x.transpose(last), y.transpose(last) if y.ndim == x.ndim else y
    found = np.asarray(model(x))
    assert found.shape == y.shape and found.dtype == y.dtype == sys.argv[1], (found.shape, found.dtype, text)
    error = np.abs(found - y).max() / np.abs(y).max()
    # Keras itself takes averages in float32.
    averages = any("Norm" in name or "Average" in name for name in (type(layer).__name__ for layer in model.layers))
    assert error <= (1e-4 if averages or y.dtype != np.float64 else 1e-10), (error, text)
    return model, error
"""

# Each model in Keras, against what libtorch gave.
COMPARES = f"""{BEGIN}
texts = open("models.txt").read().split("\\n)\\n")
numbers = [number for number in range({MODELS}) if (number % 6 == 5) == (sys.argv[1] == "float64")]
worst = max(same(number, number % 5 in (0, 1), texts[number])[1] for number in numbers)
print(f"{{worst:.1e}} is the largest relative difference of {{len(numbers)}} models of {{sys.argv[1]}}")
"""

FROZEN = f"""{BEGIN}
model, error = same("frozen", False, "")
assert [layer.trainable for layer in model.layers] == [False, True, True, True, True], model.summary()
(a, b), (c, d) = model.layers[1].get_weights(), model.layers[3].get_weights()
assert (a == c).all() and (b == d).all()
assert keras.models.load_model("comma.keras").layers[1].negative_slope == 0.25
"""


@pytest.fixture(scope="module")
def programs(installed, tmp_path_factory):
    return built("../tests/torch", installed, tmp_path_factory.mktemp("torch"))


def table():
    """The modules that the page says are known."""
    rows = (ROOT / "docs/torch.md").read_text().split("| module | in Keras |\n|---|---|\n")[1].split("\n\n")[0]
    cells = (row.split("|")[1] for row in rows.splitlines())
    return {name for cell in cells for name in re.findall(r"\b[A-Z]\w*\b", cell)}


def test_sequential_models_give_the_same_outputs(programs, tmp_path):
    print(run(programs / "sequential", 1, MODELS, tmp_path, cwd=tmp_path))
    for dtype in ("float32", "float64"):
        print(run(sys.executable, "-c", COMPARES, dtype, cwd=tmp_path))
    classes = (tmp_path / "modules.txt").read_text().split()
    assert {re.sub(r"^.*::|Impl$", "", name) for name in classes} == table()


def test_modules_come_back_or_are_refused(programs, tmp_path):
    run(programs / "modules", cwd=tmp_path)
    with safe_open(tmp_path / "odd.safetensors", "numpy") as odd:
        shapes = {name: tuple(odd.get_slice(name).get_shape()) for name in odd.keys()}
        assert (odd.get_tensor("tied") == odd.get_tensor("same")).all()
    assert shapes["transposed"] == (3, 4) and shapes["scalar"] == () and shapes["empty"] == (0, 3)
    assert shapes["deep." * 20 + "linear.weight"] == (2, 2) and "none" not in shapes
    run(sys.executable, "-c", FROZEN, "float32", cwd=tmp_path)


def test_training_goes_on(programs, tmp_path):
    run(programs / "training", cwd=tmp_path)


def test_the_example_comes_back_from_keras(programs, installed, trains, tmp_path):
    """What the example made for Keras is in libtorch again what it was, and so is its next step of training."""
    train = built("libtorch", installed, tmp_path / "build") / "train"
    trains(train, "checkpoints")
    best = names(tmp_path / "checkpoints")[-1]
    run(programs / "digits", tmp_path / "checkpoints" / best, tmp_path / "checkpoints/digits.keras")
