"""The examples, each built as its own CMake project against the installed package: Keras agrees with what they saved."""
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples/data/digits.csv.gz"

KERAS = """
import gzip, json, sys
import keras, numpy as np
path, data = sys.argv[1:]
rows = np.loadtxt(gzip.open(data), delimiter=",")
x, y = (rows[:, :64] / 16).reshape(-1, 8, 8, 1).astype("float32"), rows[:, 64].astype("int64")
model = keras.models.load_model(path)
predictions = model.predict(x[-360:], verbose=0)
_, accuracy = model.evaluate(x[-360:], y[-360:], verbose=0)
steps = int(model.optimizer.iterations)
losses = model.fit(x[:-360], y[:-360], epochs=2, batch_size=32, verbose=0).history["loss"]
print(json.dumps([predictions.tolist(), accuracy, steps, losses]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the package is installed."""
    prefix = tmp_path_factory.mktemp("prefix")
    build = ROOT / "build"
    if not (build / "cmake_install.cmake").exists():
        pytest.fail("the library is not built in build/: run `make test`")
    subprocess.run(["cmake", "--install", build, "--prefix", prefix], check=True, stdout=subprocess.DEVNULL)
    return prefix


def built(example, prefix, where):
    """An example's directory of programs."""
    configure = ["cmake", "-S", ROOT / "examples" / example, "-B", where, f"-DCMAKE_PREFIX_PATH={prefix}",
                 "-DCMAKE_BUILD_TYPE=Release"]
    for command in (configure, ["cmake", "--build", where]):
        done = subprocess.run(command, text=True, capture_output=True)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr
    return where


def in_keras(path):
    """What Keras predicts from a file, how right it is, after how many steps, and the losses of two more epochs."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", KERAS, path, DATA], env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]
    predictions, *rest = json.loads(done.stdout.splitlines()[-1])
    return np.array(predictions), *rest


def test_plain_c(installed, tmp_path):
    """A network that was built and trained in C alone predicts the same in Keras, and Keras trains it on; interrupted, it
    goes on to the same file."""
    train = built("plain-c", installed, tmp_path / "build") / "train"
    rows = tmp_path / "digits.csv"
    with gzip.open(DATA) as packed, open(rows, "wb") as out:
        shutil.copyfileobj(packed, out)

    def run(directory, stop_after=None):
        with open(rows) as stdin:
            process = subprocess.Popen([train, directory, tmp_path / "predictions.csv"], cwd=tmp_path, stdin=stdin,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if stop_after:
                while len(list((tmp_path / directory).glob("*.keras"))) < stop_after and process.poll() is None:
                    time.sleep(0.001)
                process.send_signal(signal.SIGKILL)
            out, err = process.communicate(timeout=100)
        assert stop_after or process.returncode == 0, err
        return out

    last = run("checkpoints").splitlines()[-1]
    best = last.split()[3].rstrip(":")
    assert float(last.split()[4].rstrip("%")) > 85
    predictions, accuracy, steps, losses = in_keras(tmp_path / best)
    assert np.abs(predictions - np.loadtxt(tmp_path / "predictions.csv", delimiter=",")).max() < 1e-5
    assert f"{100 * accuracy:.1f}%" == last.split()[4] and steps % 45 == 0
    # Adam goes on where it was: from new moments, the first epoch would be a step back.
    assert losses[1] < losses[0] < 0.1
    run("cut", stop_after=3)
    run("cut")
    names = [sorted(p.name for p in (tmp_path / d).glob("*.keras")) for d in ("checkpoints", "cut")]
    assert names[0] == names[1]
