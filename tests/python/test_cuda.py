"""The CUDA binding and its example: NVIDIA's compiler takes both, and Keras agrees with what the example saved, on the double of
CUDA in tests/cuda/double and, where there is one, on a GPU."""
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from in_jax import run

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "bindings/cuda/ckpt_cuda.h"
DOUBLE = ROOT / "tests/cuda/double"
DATA = ROOT / "examples/data/digits.csv.gz"
INCLUDE = ["-I", ROOT / "include", "-I", ROOT / "bindings/cuda"]
STRICT = ["-Wall", "-Wextra", "-pedantic", "-Werror", "-Wconversion", "-Wshadow"]

KERAS = """
import gzip, json, sys
import keras, numpy as np
path, data = sys.argv[1:]
x = np.loadtxt(gzip.open(data), delimiter=",")[-360:, :64].astype("float32") / 16
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(10, "softmax")])
model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "sparse_categorical_crossentropy")
model.optimizer.build(model.trainable_variables)
model.load_weights(path)
rest = model.optimizer.variables
print(json.dumps([model.predict(x, verbose=0).tolist(), int(rest[0]), float(rest[1]), [float(np.abs(v).max()) for v in rest[2:]]]))
"""


def compile_(*command):
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr


@pytest.fixture(scope="module")
def toolkit():
    """Where NVIDIA's compiler and headers are."""
    found = list((ROOT / ".venv-cuda").glob("lib/python*/site-packages/nvidia/cu*"))
    if not found:
        pytest.fail("NVIDIA's compiler is not installed in .venv-cuda: run `make test`, or `make .venv-cuda/.ready`")
    return found[0]


@pytest.mark.parametrize("compiler", [("gcc", "-std=c99", "-x", "c"), ("g++", "-std=c++17", "-x", "c++"),
                                      ("g++", "-std=c++20", "-x", "c++")])
def test_the_header_over_nvidias_headers(toolkit, compiler):
    compile_(*compiler, *STRICT, "-fsyntax-only", *INCLUDE, "-isystem", toolkit / "include", "-include", HEADER, "/dev/null")


@pytest.fixture(scope="module")
def compiled(toolkit, tmp_path_factory):
    """The example, built by nvcc as a project of its own against the installed package."""
    prefix, where = tmp_path_factory.mktemp("prefix"), tmp_path_factory.mktemp("nvcc")
    compile_("cmake", "--install", ROOT / "build", "--prefix", prefix)
    compile_("cmake", "-S", ROOT / "examples/cuda", "-B", where, f"-DCMAKE_PREFIX_PATH={prefix}",
             f"-DCMAKE_CUDA_COMPILER={toolkit}/bin/nvcc", "-DCMAKE_CUDA_ARCHITECTURES=90",
             "-DCMAKE_CUDA_FLAGS=-Xcompiler=-Wall,-Wextra")
    compile_("cmake", "--build", where)
    return where / "train"


@pytest.fixture(scope="module")
def on_the_double(tmp_path_factory):
    """The example without CUDA: its kernels run on the threads of the double's streams."""
    where = tmp_path_factory.mktemp("double")
    source, launches = re.subn(r"#define LAUNCH\(.*\\\n.*\n", "", (ROOT / "examples/cuda/train.cu").read_text())
    assert launches == 1
    (where / "train.cpp").write_text(source)
    library = Path(os.environ["CKPT_TEST_LIBRARY"])
    compile_("gcc", "-std=c99", "-O2", "-c", DOUBLE / "cuda_runtime.c", "-o", where / "double.o")
    compile_("g++", "-std=c++17", "-O2", "-Wall", "-Wextra", *INCLUDE, "-I", DOUBLE, "-include", DOUBLE / "kernels.hpp",
             where / "train.cpp", where / "double.o", library, f"-Wl,-rpath,{library.parent}", "-lpthread",
             "-o", where / "train")
    return where / "train"


@pytest.fixture
def trains(tmp_path):
    """trains(program, name, kill=n): runs it on the digits; killed once it has made n checkpoints."""
    rows = tmp_path / "digits.csv"
    with gzip.open(DATA) as packed, open(rows, "wb") as out:
        shutil.copyfileobj(packed, out)

    def start(program, name, kill=None):
        with open(rows) as stdin:
            process = subprocess.Popen([program, name, f"{name}.csv"], cwd=tmp_path, stdin=stdin, text=True,
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            while kill and process.poll() is None:
                if len(list((tmp_path / name).glob("*-*"))) >= kill:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.001)
            out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    return start


def agrees(directory, name, out):
    """Keras predicts what the program did, from the checkpoint that it calls the best."""
    best = re.search(r"The best is (\S+): val_loss \S+ (\S+)% of 360 digits", out)
    assert float(best[2]) > 85
    made = json.loads(run(sys.executable, "-c", KERAS, directory / best[1], DATA).splitlines()[-1])
    predictions, iterations, rate, velocities = made
    np.testing.assert_allclose(predictions, np.loadtxt(directory / f"{name}.csv", delimiter=","), atol=1e-5)
    epoch = int(re.search(r"/(\d+)-", best[1])[1])
    assert (iterations, np.float32(rate)) == (epoch * 45, np.float32(0.01)) and min(velocities) > 0


def test_the_example_on_the_double(on_the_double, trains, tmp_path):
    code, whole, err = trains(on_the_double, "whole")
    assert code == 0, err
    agrees(tmp_path, "whole", whole)
    assert trains(on_the_double, "parts", kill=3)[0] == -signal.SIGKILL
    code, rest, err = trains(on_the_double, "parts")
    assert code == 0 and "Epoch 1/" not in rest, err
    assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_the_example_on_a_gpu(compiled, trains, tmp_path):
    code, out, err = trains(compiled, "gpu")
    if code == 0:
        agrees(tmp_path, "gpu", out)
    else:
        # No GPU is no failure of the compiler's; it is the driver that is missing, and the program says so.
        assert code == 1 and re.fullmatch(r"CUDA: .*(driver|device).*\n", err), err
