"""The CUDA binding and its example: NVIDIA's compiler takes both, and Keras agrees with what the example saved, on the double of
CUDA in tests/cuda/double and, where there is one, on a GPU."""
import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from examples import DATA, ROOT, build, built, installed, trains  # noqa: F401, fixtures
from in_jax import run

HEADER = ROOT / "bindings/cuda/ckpt_cuda.h"
DOUBLE = ROOT / "tests/cuda/double"
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
    build(*compiler, *STRICT, "-fsyntax-only", *INCLUDE, "-isystem", toolkit / "include", "-include", HEADER, "/dev/null")


@pytest.fixture(scope="module")
def compiled(toolkit, installed, tmp_path_factory):
    """The example, built by nvcc."""
    return built("cuda", installed, tmp_path_factory.mktemp("nvcc"), f"-DCMAKE_CUDA_COMPILER={toolkit}/bin/nvcc",
                 "-DCMAKE_CUDA_ARCHITECTURES=90", "-DCMAKE_CUDA_FLAGS=-Xcompiler=-Wall,-Wextra") / "train"


@pytest.fixture(scope="module")
def on_the_double(tmp_path_factory):
    """The example without CUDA: its kernels run on the threads of the double's streams."""
    where = tmp_path_factory.mktemp("double")
    source, launches = re.subn(r"#define LAUNCH\(.*\\\n.*\n", "", (ROOT / "examples/cuda/train.cu").read_text())
    assert launches == 1
    (where / "train.cpp").write_text(source)
    library = Path(os.environ["CKPT_TEST_LIBRARY"])
    build("gcc", "-std=c99", "-O2", "-c", DOUBLE / "cuda_runtime.c", "-o", where / "double.o")
    build("g++", "-std=c++17", "-O2", "-Wall", "-Wextra", *INCLUDE, "-I", DOUBLE, "-include", DOUBLE / "kernels.hpp",
             where / "train.cpp", where / "double.o", library, f"-Wl,-rpath,{library.parent}", "-lpthread",
             "-o", where / "train")
    return where / "train"


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
    agrees(tmp_path, "whole", trains(on_the_double, "whole", "whole.csv").stdout)
    assert trains(on_the_double, "parts", "parts.csv", stop_after=3).returncode == -signal.SIGKILL
    assert "Epoch 1/" not in trains(on_the_double, "parts", "parts.csv").stdout
    assert (tmp_path / "parts.csv").read_text() == (tmp_path / "whole.csv").read_text()


def test_the_example_on_a_gpu(compiled, trains, tmp_path):
    done = trains(compiled, "gpu", "gpu.csv", check=False)
    if done.returncode == 0:
        agrees(tmp_path, "gpu", done.stdout)
    else:
        # No GPU is no failure of the compiler's; it is the driver that is missing, and the program says so.
        assert done.returncode == 1 and re.fullmatch(r"CUDA: .*(driver|device).*\n", done.stderr), done.stderr
