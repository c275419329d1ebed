"""The examples, each built as its own CMake project against the installed package: Keras agrees with what they saved."""
import json
import sys

import numpy as np

from examples import DATA, ROOT, built, installed, names, trains  # noqa: F401, fixtures
from in_jax import run

KERAS = """
import gzip, json, sys
import keras, numpy as np
path, data = sys.argv[1:]
rows = np.loadtxt(gzip.open(data), delimiter=",")
x, y = (rows[:, :64] / 16).reshape(-1, 8, 8, 1).astype("float32"), rows[:, 64].astype("int64")
model = keras.models.load_model(path)
predictions = model.predict(x[-360:], verbose=0)
found = [predictions.tolist(), float((predictions.argmax(1) == y[-360:]).mean())]
if model.compiled:
    found[1] = model.evaluate(x[-360:], y[-360:], verbose=0)[1]
    found.append(int(model.optimizer.iterations))
    found.append(model.fit(x[:-360], y[:-360], epochs=2, batch_size=32, verbose=0).history["loss"])
print(json.dumps(found))
"""


def in_keras(path):
    """What Keras predicts from a file and how right it is; of a model that is compiled, after how many steps, and the losses of
    two more epochs."""
    predictions, *rest = json.loads(run(sys.executable, "-c", KERAS, path, DATA).splitlines()[-1])
    return np.array(predictions), *rest


def test_plain_c(installed, trains, tmp_path):
    """A network that was built and trained in C alone predicts the same in Keras, and Keras trains it on; interrupted, it
    goes on to the same files."""
    train = built("plain-c", installed, tmp_path / "build") / "train"
    last = trains(train, "checkpoints", "predictions.csv").stdout.splitlines()[-1].split()
    best, right = last[3].rstrip(":"), last[4]
    assert float(right.rstrip("%")) > 85
    predictions, accuracy, steps, losses = in_keras(tmp_path / best)
    assert np.abs(predictions - np.loadtxt(tmp_path / "predictions.csv", delimiter=",")).max() < 1e-5
    assert f"{100 * accuracy:.1f}%" == right and steps % 45 == 0
    # Adam goes on where it was: from new moments, the first epoch would be a step back.
    assert losses[1] < losses[0] < 0.1
    trains(train, "cut", stop_after=3)
    trains(train, "cut")
    assert names(tmp_path / "cut") == names(tmp_path / "checkpoints")


def test_libtorch(installed, trains, tmp_path):
    """What libtorch has trained predicts the same in Keras, and is as often right; interrupted, it goes on to the same files,
    with the same values in the best."""
    train = built("libtorch", installed, tmp_path / "build") / "train"
    right = trains(train, "checkpoints").stdout.split()[-4]
    assert float(right.rstrip("%")) > 90
    predictions, accuracy = in_keras(tmp_path / "checkpoints/digits.keras")
    assert np.abs(predictions - np.loadtxt(tmp_path / "checkpoints/predictions.csv", delimiter=",")).max() < 1e-5
    assert f"{100 * accuracy:.1f}%" == right
    trains(train, "cut", stop_after=3)
    trains(train, "cut")
    assert names(tmp_path / "cut") == names(tmp_path / "checkpoints")
    assert (tmp_path / "cut/predictions.csv").read_text() == (tmp_path / "checkpoints/predictions.csv").read_text()


def test_keras(tmp_path):
    """The same training with Keras' callback, with ours, and beside: the same files, and the best is good."""
    told = run(sys.executable, ROOT / "examples/keras/train.py", tmp_path, 400)
    assert names(tmp_path / "keras") == names(tmp_path / "libckpt") and len(names(tmp_path / "keras")) == 8
    assert set(names(tmp_path / "beside")) < set(names(tmp_path / "keras"))
    assert float(told.splitlines()[-1].split()[1]) > 0.85
