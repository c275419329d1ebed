"""Files that are not kept are written anew: what Keras, h5py and our own reader have open stays as it was."""
import ctypes
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from capi import Lib

lib = Lib()

CONFIG = json.dumps({"module": "keras", "class_name": "Sequential", "config": {}})
TEMPLATES = ["m.weights.h5", "m-{epoch}.weights.h5"]


class Run:
    """Saves of a session that keeps the last one."""

    def __init__(self, template, on=True, **options):
        options = dict(options, save_weights_only=ctypes.c_bool(".weights." in template or "safetensors" in template))
        self.template = template
        self.session = lib.session(template, recycle=ctypes.c_bool(on), keep_last=ctypes.c_uint64(1), **options)
        self.epoch = 0

    def save(self, tensors, **model):
        """Saves, and gives the path."""
        handle = lib.model(tensors, **model)
        lib.epoch_end(self.session, self.epoch)
        lib("ckpt_save", self.session, handle)
        lib.c.ckpt_model_free(handle)
        self.epoch += 1
        return self.template.format(epoch=self.epoch)

    def close(self):
        lib.c.ckpt_free(self.session)


def tensors(value, size=1 << 20):
    return {"layers/dense/vars/0": np.full(size, value, np.float32)}


def file(path):
    """Which file it is: the number of one that has gone is given to the next that is made."""
    birth = subprocess.run(["stat", "-c", "%i %W.%w", path], check=True, capture_output=True).stdout
    return birth


@pytest.fixture
def place(tmp_path):
    run = Run(f"{tmp_path}/probe-{{epoch}}.weights.h5")
    first = file(run.save(tensors(0)))
    run.save(tensors(1))
    third = file(run.save(tensors(2)))
    run.close()
    if first != third:
        pytest.skip(f"no file is recycled on the file system of {tmp_path}")
    for path in tmp_path.iterdir():
        path.unlink()
    return tmp_path


def temps(place):
    return [path for path in place.iterdir() if path.name.startswith(".ckpt-tmp")]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_spare_lives_as_long_as_its_session(template, place):
    run = Run(f"{place}/{template}")
    files = []
    for value in range(6):
        path = run.save(tensors(value))
        files.append(file(path))
        assert np.all(h5py.File(path)["layers/dense/vars/0"][()] == value)
        assert len(temps(place)) == (value > 0)
    assert files[2:] == files[:-2]
    run.close()
    assert [str(path) for path in place.iterdir()] == [path]


@pytest.mark.parametrize("template", TEMPLATES)
def test_off_leaves_nothing(template, place):
    run = Run(f"{place}/{template}", on=False)
    for value in range(3):
        run.save(tensors(value))
        assert not temps(place)
    run.close()


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_others_hold_keeps_its_bytes(template, place):
    run = Run(f"{place}/{template}")
    run.save(tensors(0))
    held, maps, h5, ours, paths, children = [], [], [], [], [], []
    for value in range(1, 7):
        path = run.save(tensors(value))
        expected = Path(path).read_bytes()
        held.append((open(path, "rb"), expected))
        with open(path, "rb") as f:
            maps.append((mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ), expected))
        run.save(tensors(-value))
        h5.append((h5py.File(run.save(tensors(value))), value))
        path = run.save(tensors(value))
        ours.append((lib.make("ckpt_reader_open", path.encode()), value))
        path = run.save(tensors(value))
        os.link(path, place / f"link-{value}")
        paths.append((place / f"link-{value}", Path(path).read_bytes()))
        # Another process, which opens the file and reads it later.
        path = run.save(tensors(value))
        program = "import sys; f = open(sys.argv[1], 'rb'); print(flush=True); input(); sys.stdout.buffer.write(f.read())"
        child = subprocess.Popen([sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout.readline()
        children.append((child, Path(path).read_bytes()))
        run.save(tensors(-value))
        run.save(tensors(-value))
    for f, expected in held:
        assert f.read() == expected
    for m, expected in maps:
        assert m[:] == expected
    for f, value in h5:
        assert np.all(f["layers/dense/vars/0"][()] == value)
        f.close()
    for reader, value in ours:
        a = np.empty(1 << 20, np.float32)
        lib("ckpt_reader_verify", reader)
        lib("ckpt_reader_read", reader, ctypes.c_size_t(0), ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(a.nbytes))
        assert np.all(a == value)
        lib.c.ckpt_reader_free(reader)
    for path, expected in paths:
        assert path.read_bytes() == expected
    for child, expected in children:
        assert child.communicate(b"\n")[0] == expected
    run.close()
    assert not temps(place)


@pytest.mark.parametrize("ending", ["weights.h5", "keras", "h5", "safetensors", "weights.json"])
@pytest.mark.parametrize("durable", [0, 1], ids=["durable", "not durable"])
def test_no_old_byte_is_left_in_a_gap(ending, durable, place):
    """The same model over files full of two bytes: where each shows, it is what was there before."""
    rng = np.random.default_rng(0)
    sizes = [1, 63, 65, 4095, 100_001, 1 << 20, 7, (1 << 20) + 4097, 300_000]
    gaps = {f"layers/dense{f'_{i}' * (i > 0)}/vars/0": rng.integers(0, 200, n).astype(np.uint8) for i, n in enumerate(sizes)}
    layer = {"class_name": "Dense", "config": {"name": "dense", "trainable": True}}
    names = [(path[:-len("/vars/0")], path.split("/")[1]) for path in gaps]
    layers = [{"class_name": "Dense", "config": {"name": name, "trainable": True}} for _, name in names]
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": layers}})
    found = []
    for old in (0xEE, 0x11):
        run = Run(f"{place}/{old}.{ending}", durability=ctypes.c_int(durable),
                  max_shard_bytes=ctypes.c_uint64(1 << 21))
        full = {path: np.full(a.shape, old, np.uint8) for path, a in gaps.items()}
        # The same bytes in other places: what is a gap later is full now.
        full = {path: a for path, a in zip(full, [np.full(n, old, np.uint8) for n in reversed(sizes)])}
        before = set()
        for _ in range(2):
            path = run.save(full, names=names, config=config)
            before |= {file(p) for p in place.iterdir() if p.is_file()}
        path = Path(run.save(gaps, names=names, config=config))
        if ending == "weights.json":
            index = json.loads(path.read_bytes())
            shards = sorted({place / n for files in index["weight_map"].values() for n in files})
            assert any(file(shard) in before for shard in shards)
            found.append(b"".join(shard.read_bytes() for shard in shards))
        else:
            assert file(path) in before
            found.append(path.read_bytes())
        back = lib.read(path)
        assert all(np.array_equal(back[name], a) for name, a in gaps.items()), back.keys()
        run.close()
    one, other = (np.frombuffer(bytes_, np.uint8) for bytes_ in found)
    assert len(one) == len(other)
    left = np.flatnonzero((one == 0xEE) & (other == 0x11))
    assert not len(left), f"old bytes at {left[:10]}"
