"""A second reader of /libckpt, written from docs/formats.md: every checksum is what the page says."""
import ctypes
import json
import zlib

import h5py
import ml_dtypes
import numpy as np
import pytest

from capi import DTYPES, Lib

lib = Lib()


def key(path):
    h = 0xCBF29CE484222325
    for byte in path.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def checksum(path, dtype, shape, raw):
    head = path.encode() + bytes([0, DTYPES.index(dtype), len(shape)])
    return zlib.crc32(raw, zlib.crc32(head + b"".join(n.to_bytes(8, "little") for n in shape)))


def rows(path):
    """What the table should hold, from the file's tensors."""
    expected = []

    def visit(name, node):
        if isinstance(node, h5py.Dataset) and name != "libckpt/checksums":
            dtype = node.attrs.get("dtype", str(node.dtype))
            expected.append((key(name), checksum(name, dtype, node.shape, node[()].tobytes())))
    with h5py.File(path) as f:
        f.visititems(visit)
        return sorted(expected), [tuple(map(int, row)) for row in f["libckpt/checksums"][()]]


@pytest.mark.parametrize("ending", ["weights.h5", "keras"])
def test_the_table_is_what_the_page_says(ending, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for i, dtype in enumerate(DTYPES):
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        for shape in [(), (3,), (2, 0), (5, 4, 3)]:
            tensors[f"größe/{dtype}/{len(tensors)}"] = rng.integers(0, 2, shape).astype(kind).reshape(shape)
    tensors["big"] = rng.standard_normal((1 << 20) + 3)
    tensors["turned"] = rng.standard_normal((30, 20)).T
    path = tmp_path / f"x.{ending}"
    lib.save(path, tensors, config=json.dumps({"module": "keras", "class_name": "Sequential", "config": {}}))
    expected, found = rows(path)
    assert len(found) == len(tensors) + 1
    assert found == expected


def test_the_state_is_what_the_page_says(tmp_path):
    session = lib.session(f"{tmp_path}/{{epoch}}.weights.h5", save_weights_only=ctypes.c_bool(True),
                          save_best_only=ctypes.c_bool(True))
    values = np.arange(4.0)
    model = lib.model({"x": values})
    for epoch, loss in enumerate([0.5, 0.25]):
        lib.epoch_end(session, epoch, val_loss=loss, loss=float("nan"))
        lib("ckpt_save", session, model)
    with h5py.File(tmp_path / "2.weights.h5") as f:
        raw = f["libckpt/state"][()].tobytes()
    state = json.loads(raw)
    assert len(raw) == 4096 and raw.rstrip(b" ").endswith(b"}")
    assert state["save"] == 2 and state["epoch"] == 1 and state["batch"] is None
    assert state["metrics"] == {"val_loss": 0.25, "loss": "NaN"}
    assert state["monitor"] == "val_loss" and state["best"] == 0.25
