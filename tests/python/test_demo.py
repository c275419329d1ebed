"""examples/digits, from end to end: Keras agrees with what it saved, and nothing that ends it leaves half a file."""
import gzip
import json
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


def contents(directory):
    """What is in the checkpoints of a directory, but for what depends on the clock: every tensor, the trainer's own state,
    and what is said of the training."""
    import h5py
    found = {}
    for path in sorted(directory.iterdir()):
        with h5py.File(path) as file:
            datasets = {}
            file.visititems(lambda name, item: datasets.update({name: item[()].tobytes()})
                            if isinstance(item, h5py.Dataset) else None)
        del datasets["libckpt/checksums"]
        state = json.loads(datasets.pop("libckpt/state"))
        assert state.pop("run") and state.pop("saved_at")
        found[path.name] = (datasets, state)
    return found


@pytest.mark.parametrize("flags", [["--epochs", "8"], ["--every", "7", "--epochs", "5", "--weights-only"]],
                         ids=["epochs", "batches"])
def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(digits, tmp_path, flags):
    """200 runs in all, each killed at random times and resumed until it ends: the same weights, the same decisions, the
    same files as those of a run that was not interrupted."""
    def last_lines(output):
        return [line.replace(str(tmp_path / "whole"), "DIR") for line in output.splitlines()[-2:]]

    begin = time.monotonic()
    output = run(digits(*flags, "--resume", tmp_path / "whole"))
    took = time.monotonic() - begin
    expected, ends = contents(tmp_path / "whole"), last_lines(output)
    rng = random.Random(20241)
    kills = resumed = 0
    for i in range(100):
        directory = tmp_path / str(i)
        for attempt in range(30):
            process = digits(*flags, "--resume", directory)
            if attempt < 29:
                time.sleep(rng.uniform(0.0, took))
                process.send_signal(signal.SIGKILL)
            output, errors = process.communicate(timeout=120)
            resumed += "Resumed from" in output
            if process.returncode == 0:
                break
            assert process.returncode == -signal.SIGKILL, errors
            kills += 1
        assert [line.replace(str(directory), "DIR") for line in output.splitlines()[-2:]] == ends
        assert contents(directory) == expected
        shutil.rmtree(directory)
    assert kills > 50 and resumed > 20, f"{kills} kills, {resumed} resumed: they came too late"
    print(f"{kills} kills, {resumed} resumed")
