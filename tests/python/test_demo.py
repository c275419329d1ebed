"""examples/digits, from end to end: Keras agrees with what it saved, and nothing that ends it leaves half a file."""
import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples/data/digits.csv.gz"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Runs the demo, built against the library under test: digits(arguments) is a process that has its data."""
    library = os.environ.get("CKPT_TEST_LIBRARY")
    if not library:
        pytest.fail("CKPT_TEST_LIBRARY is not set: run `make test`, or set it to libckpt.so")
    library = Path(library).resolve()
    built = tmp_path_factory.mktemp("digits")
    subprocess.run([os.environ.get("CXX", "c++"), "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror",
                    f"-I{ROOT / 'include'}", f"-I{ROOT / 'bindings/cpp'}", ROOT / "examples/digits/digits.cpp",
                    library, f"-Wl,-rpath,{library.parent}", "-o", built / "digits"], check=True)
    (built / "libckpt.so.0").exists() or (built / "libckpt.so.0").symlink_to(library)
    data = built / "digits.csv"
    with gzip.open(DATA) as packed, open(data, "wb") as out:
        shutil.copyfileobj(packed, out)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(built)}

    def start(*arguments):
        with open(data) as rows:
            # A shell has its background jobs ignore interrupts, and they hand that on.
            return subprocess.Popen([built / "digits", *map(str, arguments)], stdin=rows, stdout=subprocess.PIPE,
                                    stderr=subprocess.PIPE, env=environment, text=True,
                                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return start


def run(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    return output


@pytest.mark.parametrize("flags", [[], ["--weights-only"]], ids=["keras", "weights"])
def test_keras_agrees(digits, tmp_path, flags):
    output = run(digits(*flags, "--predictions", tmp_path / "predictions.csv", tmp_path / "checkpoints"))
    ending = ".weights.h5" if flags else ".keras"
    assert "Epoch 1: val_loss improved from None to " in output
    assert f"{ending}; loaded back: val_loss " in output
    check = subprocess.run([sys.executable, ROOT / "examples/digits/check.py", tmp_path / "predictions.csv"],
                           env={**os.environ, "KERAS_BACKEND": "numpy"}, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr
    assert "same digit predicted: 360 of 360" in check.stdout
    assert "optimizer variables restored: 10 of 10" in check.stdout


def test_two_runs_are_the_same(digits, tmp_path):
    files = []
    for name in ("a", "b"):
        run(digits("--epochs", 3, tmp_path / name))
        files.append(sorted(path.name for path in (tmp_path / name).iterdir()))
    assert files[0] == files[1] and files[0]


@pytest.mark.parametrize("flags", [[], ["--weights-only"]], ids=["keras", "weights"])
def test_what_kills_it_leaves_whole_files(digits, tmp_path, flags):
    os.environ["KERAS_BACKEND"] = "numpy"
    import h5py
    import keras

    rng = random.Random(7)
    checkpoints = tmp_path / "checkpoints"
    killed = 0
    for i in range(20):
        process = digits("--epochs", 1000, *flags, checkpoints)
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGINT if i % 2 else signal.SIGKILL)
        process.communicate(timeout=120)
        killed += process.returncode != 0
    assert killed == 20, "the demo is to be killed in the middle"
    run(digits("--epochs", 3, *flags, checkpoints))

    files = sorted(checkpoints.iterdir())
    assert not [path.name for path in files if path.name.startswith(".ckpt-")]
    assert len(files) >= 3
    for path in files:
        if path.suffix == ".keras":
            model = keras.models.load_model(path)
            assert len(model.optimizer.variables) == 10
        else:
            with h5py.File(path) as file:
                assert file["layers/dense/vars/0"][:].any() and len(file["optimizer/vars"]) == 10
