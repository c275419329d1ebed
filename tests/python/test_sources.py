"""Tensors that are not in host memory, and what reads a file a piece at a time."""
import ctypes
import os
import subprocess
import sys

os.environ.setdefault("KERAS_BACKEND", "numpy")
import numpy as np
import pytest

import models
from capi import Failure, Lib
from hdf5 import assert_same

lib = Lib()


class Device:
    """Arrays that are seen through their functions alone, until the device breaks."""

    def __init__(self, tensors):
        self.bytes = {path: bytearray(a.tobytes()) for path, a in tensors.items()}
        self.tensors, self.keep, self.broken = tensors, [], False

    def model(self):
        model = lib.make("ckpt_model_new")
        for path, a in self.tensors.items():
            fetch, put = (self.function(self.bytes[path], out) for out in (True, False))
            self.keep.append(lib.add_source(model, path, str(a.dtype), a.shape, fetch, put))
        return model

    def function(self, memory, out):
        def move(host, offset, nbytes, _user):
            if self.broken:
                return 3  # CKPT_E_IO
            device = ctypes.addressof(ctypes.c_char.from_buffer(memory, offset))
            ctypes.memmove(*((host, device) if out else (device, host)), nbytes)
            return 0
        return move

    def arrays(self):
        return {path: np.frombuffer(bytes(self.bytes[path]), a.dtype).reshape(a.shape)
                for path, a in self.tensors.items()}


@pytest.mark.parametrize("ending", ["weights.h5", "weights.json"])
def test_keras_reads_what_was_fetched(ending, tmp_path):
    model = models.build("dense")
    models.randomize(model, 1)
    model.save_weights(tmp_path / "keras.weights.h5")
    tensors = lib.read(tmp_path / "keras.weights.h5")
    want = dict(enumerate(models.values(model).values()))
    device = Device(tensors)
    handle = device.model()
    lib("ckpt_model_save", handle, os.fspath(tmp_path / f"ours.{ending}").encode())
    models.randomize(model, 2)
    model.load_weights(tmp_path / f"ours.{ending}")
    assert_same(dict(enumerate(models.values(model).values())), want)
    # And back: what Keras wrote goes to the device.
    model.save_weights(tmp_path / "again.weights.h5")
    device.bytes.update({path: bytearray(len(data)) for path, data in device.bytes.items()})
    lib.c.ckpt_model_free(handle)
    handle = device.model()
    with lib.reader(tmp_path / "again.weights.h5") as reader:
        lib("ckpt_reader_load", reader, handle)
    assert_same(device.arrays(), tensors)
    device.broken = True
    with pytest.raises(Failure, match="its fetch function, called for .*, returned CKPT_E_IO") as e:
        lib("ckpt_model_save", handle, os.fspath(tmp_path / f"ours.{ending}").encode())
    assert e.value.status == "CKPT_E_IO"
    lib.c.ckpt_model_free(handle)
    assert_same(lib.read(tmp_path / f"ours.{ending}"), tensors)


CONVERT = """
import re, sys
from capi import Lib
lib = Lib()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
before = peak()
lib("ckpt_convert", *(path.encode() for path in sys.argv[1:]))
print(peak() - before)
"""


@pytest.mark.parametrize("ending", ["weights.h5", "keras", "weights.json", "safetensors"])
def test_a_conversion_needs_little_memory(ending, tmp_path):
    """Many times less than the tensors, which pass through it."""
    numbers = np.arange(6 << 20, dtype=np.float32)
    lib.save(tmp_path / "src.keras", {f"layers/dense_{i}/vars/0": numbers + i for i in range(1, 5)},
             config='{"module": "keras", "class_name": "Sequential", "config": {}}')
    result = subprocess.run([sys.executable, "-c", CONVERT, tmp_path / "src.keras", tmp_path / f"to.{ending}"],
                            cwd=os.path.dirname(__file__), check=True, capture_output=True, text=True)
    assert int(result.stdout) < 24 << 20, f"{int(result.stdout) >> 20} MiB for 96 MiB of tensors"
    with lib.reader(tmp_path / f"to.{ending}") as reader:
        lib("ckpt_reader_verify", reader)
