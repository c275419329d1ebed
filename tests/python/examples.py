"""The examples as programs: built against the installed package, and run on the digits."""
import gzip
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "examples/data/digits.csv.gz"


def build(*command):
    """Runs a step of a build, which is to have no warnings."""
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Where the package is installed."""
    prefix = tmp_path_factory.mktemp("prefix")
    if not (ROOT / "build/cmake_install.cmake").exists():
        pytest.fail("the library is not built in build/: run `make test`")
    build("cmake", "--install", ROOT / "build", "--prefix", prefix)
    return prefix


def built(example, prefix, where, *options):
    """An example's directory of programs, built as a project of its own."""
    build("cmake", "-S", ROOT / "examples" / example, "-B", where, f"-DCMAKE_PREFIX_PATH={prefix}", "-DCMAKE_BUILD_TYPE=Release",
          *options)
    build("cmake", "--build", where, "-j", "2")
    return where


@pytest.fixture
def trains(tmp_path):
    """Runs an example on the digits: trains(program, arguments...), killed once it has made so many checkpoints."""
    rows = tmp_path / "digits.csv"
    with gzip.open(DATA) as packed, open(rows, "wb") as out:
        shutil.copyfileobj(packed, out)

    def start(program, directory, *arguments, stop_after=None, check=True):
        command = [program, directory, *arguments]
        with open(rows) as stdin:
            process = subprocess.Popen(command, cwd=tmp_path, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True)
            if stop_after:
                while len(list((tmp_path / directory).glob("*-*"))) < stop_after and process.poll() is None:
                    time.sleep(0.001)
                process.send_signal(signal.SIGKILL)
            out, err = process.communicate(timeout=300)
        assert stop_after or not check or process.returncode == 0, err
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return start


def names(directory):
    return sorted(path.name for path in directory.glob("*-*"))
