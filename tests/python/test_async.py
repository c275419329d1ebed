"""Saves in the background from Python: what is in the files, what failures say, and what a process leaves that ends."""
import ctypes
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from capi import Failure, Lib

lib = Lib()
COPY, BORROW, SNAPSHOT = 1, 2, 3
CONFIG = json.dumps({"module": "keras", "class_name": "Sequential", "config": {}})


def session(template, mode):
    weights_only = ctypes.c_bool(not str(template).endswith(".keras"))
    return lib.session(str(template), save_weights_only=weights_only, **{"async": mode})


def tensors(seed):
    """Some that are large, many that are small, one of which no element is where the next one is."""
    rng = np.random.default_rng(seed)
    found = {f"layers/dense_{i}/vars/0": rng.standard_normal(i % 50).astype("float32") for i in range(300)}
    found["layers/big/vars/0"] = rng.standard_normal((1500, 1100))
    found["layers/turned/vars/0"] = rng.standard_normal((300, 500)).T
    return found


@pytest.mark.parametrize("mode", [COPY, BORROW, SNAPSHOT])
@pytest.mark.parametrize("ending", ["weights.h5", "keras", "weights.json", "safetensors"])
def test_what_is_saved_is_what_was_there(mode, ending, tmp_path):
    s = session(f"{tmp_path}/{{epoch}}.{ending}", mode)
    live = tensors(0)
    model = lib.model(live, config=CONFIG)
    lib("ckpt_prepare", s, model)
    for epoch in range(4):
        lib("ckpt_wait_buffers", s)
        for path, new in tensors(epoch).items():
            live[path][...] = new
        lib.epoch_end(s, epoch, val_loss=1.0)
        lib("ckpt_save", s, model)
        if mode != BORROW:
            for a in live.values():
                a.fill(-1)
    lib.c.ckpt_model_free(model)
    lib("ckpt_wait", s)
    lib.c.ckpt_free(s)
    for epoch in range(4):
        found = lib.read(tmp_path / f"{epoch + 1}.{ending}")
        for path, expected in tensors(epoch).items():
            np.testing.assert_array_equal(found[path], expected)
    if ending == "weights.h5":
        with h5py.File(tmp_path / "4.weights.h5") as f:
            np.testing.assert_array_equal(f["layers/turned/vars/0"], tensors(3)["layers/turned/vars/0"])


def test_a_failure_is_told_once(tmp_path):
    (tmp_path / "1.weights.h5").mkdir()
    s = session(tmp_path / "{epoch}.weights.h5", COPY)
    model = lib.model(tensors(0))
    lib.epoch_end(s, 0, val_loss=1.0)
    lib("ckpt_save", s, model)
    with pytest.raises(Failure, match="CKPT_E_IO: ckpt_wait: the save to '.*1.weights.h5' failed: "):
        lib("ckpt_wait", s)
    lib("ckpt_wait", s)
    lib.epoch_end(s, 1, val_loss=1.0)
    lib("ckpt_save", s, model)
    lib.c.ckpt_free(s)
    assert len(lib.read(tmp_path / "2.weights.h5")) == len(tensors(0))


@pytest.mark.parametrize("mode", [COPY, BORROW])
def test_a_process_that_ends_leaves_whole_files_only(mode, tmp_path):
    """Nobody waits for the save, nor frees the session: the library hears of the end."""
    program = textwrap.dedent(f"""
        import ctypes
        import numpy as np
        from capi import Lib
        lib = Lib()
        a = np.full(30_000_000, 7, "float32")
        # The interpreter frees it before the process ends: what is borrowed has to be there until then.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(a))
        o = lib.make("ckpt_options_new")
        lib("ckpt_options_set_save_weights_only", o, ctypes.c_bool(True))
        lib("ckpt_options_set_async", o, {mode})
        s = lib.make("ckpt_new", b"{tmp_path}/m.weights.h5", o)
        lib.epoch_end(s, 0, val_loss=1.0)
        lib("ckpt_save", s, lib.model({{"w": a}}))
    """)
    path = tmp_path / "m.weights.h5"
    lib.save(path, {"w": np.zeros(3, "float32")})
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parent, timeout=60)
    assert [p.name for p in tmp_path.iterdir()] == ["m.weights.h5"]
    w = lib.read(path)["w"]
    assert w.size == 30_000_000 or mode == BORROW and w.size == 3
    assert (w == (7 if w.size > 3 else 0)).all()


def test_the_process_may_fork(tmp_path):
    """As multiprocessing does: the child of a session's process has sessions of its own."""
    s = session(tmp_path / "parent-{epoch}.weights.h5", COPY)
    model = lib.model(live := tensors(0))
    lib.epoch_end(s, 0, val_loss=1.0)
    lib("ckpt_save", s, model)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pytest.raises(Failure, match="CKPT_E_STATE: ckpt_wait: .* forked"):
                lib("ckpt_wait", s)
            lib.c.ckpt_free(s)
            own = session(tmp_path / "child.weights.h5", COPY)
            lib.epoch_end(own, 0, val_loss=1.0)
            lib("ckpt_save", own, model)
            lib.c.ckpt_free(own)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    lib("ckpt_wait", s)
    lib.c.ckpt_free(s)
    for name in ["parent-1", "child"]:
        assert len(lib.read(tmp_path / f"{name}.weights.h5")) == len(live)
