"""Sharded checkpoints: Keras loads ours and we read Keras', bit for bit; and no save, cut off wherever, tears one."""
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest
from keras import layers

import models
from capi import Failure, Lib
from hdf5 import assert_same, contents

lib = Lib()

MODELS = ["dense", "bidirectional", "nested", "low_precision", "containers"]  # test_models.py has all, in one shard

GENERATION = re.compile(r"_([0-9a-f]{16})_\d{5,}\.weights\.h5$")


def build(name):
    model = models.build(name)
    models.randomize(model, 2)
    return model


def save(path, tensors, names=(), most=2**40, session=None):
    """A save of a session's: at most so many bytes in a shard."""
    s = session or lib.session(str(path), save_weights_only=True, max_shard_bytes=ctypes.c_uint64(most))
    model = lib.model(tensors, names)
    try:
        lib.epoch_end(s, 0, val_loss=1.0)
        lib("ckpt_save", s, model)
    finally:
        lib.c.ckpt_model_free(model)
        if session is None:
            lib.c.ckpt_free(s)


def weight_map(path):
    return json.loads(path.read_text())["weight_map"]


def generations(path):
    found = [GENERATION.search(p.name) for p in path.parent.iterdir()]
    return {match[1] for match in found if match}


@pytest.mark.parametrize("most", [1, 300, 2**40])
@pytest.mark.parametrize("name", MODELS)
def test_keras_loads_what_we_write(name, most, tmp_path):
    model = build(name)
    tensors, names = models.saved(model)
    path = tmp_path / "m.weights.json"
    save(path, tensors, names, most)
    assert_same(lib.read(path), tensors)
    expected = models.values(model)
    models.randomize(model, 3)
    model.load_weights(path)
    assert_same(models.values(model), expected)


@pytest.mark.parametrize("name", MODELS)
def test_we_read_what_keras_writes(name, tmp_path):
    model = build(name)
    tensors, _ = models.saved(model)
    largest = max(a.nbytes for a in tensors.values())
    for most in [largest, 4 * largest, 2**30]:
        path = tmp_path / f"m{most}.weights.json"
        model.save_weights(path, max_shard_size=most / 2**30)
        assert_same(lib.read(path), tensors)


def test_the_index_is_as_keras_writes_it(tmp_path):
    model = build("dense")
    tensors, names = models.saved(model)
    ours, theirs = tmp_path / "ours.weights.json", tmp_path / "theirs.weights.json"
    save(ours, tensors, names, 100)
    model.save_weights(theirs, max_shard_size=1)
    ours, theirs = json.loads(ours.read_text()), json.loads(theirs.read_text())
    assert list(ours["weight_map"]) == list(theirs["weight_map"])
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]
    assert len(ours["weight_map"]["/optimizer/vars"]) > 1, "a group in several shards"
    own = ours["metadata"]["libckpt"]
    assert own["crc32"] == zlib.crc32(own["state"].encode())
    assert json.loads(own["state"])["metrics"] == {"val_loss": 1.0}


def test_every_shard_is_a_file_of_its_own(tmp_path):
    """Named groups, those without variables too, and a checksum for each tensor: as docs/formats.md says."""
    model = build("dense")
    tensors, names = models.saved(model)
    path = tmp_path / "m.weights.json"
    save(path, tensors, names, 100)
    shards = sorted({name for files in weight_map(path).values() for name in files})
    assert len(shards) > 3
    found, found_names = {}, {}
    for shard in shards:
        part, part_names = contents(tmp_path / shard)
        assert sum(a.nbytes for a in part.values()) <= 100 or len(part) == 1
        assert not part.keys() & found.keys()
        found |= part
        found_names |= part_names
        with h5py.File(tmp_path / shard) as f:
            assert len(f["libckpt/checksums"]) == len(part) + 1
    assert_same(found, tensors)
    assert found_names == names
    with h5py.File(tmp_path / "m_00000.weights.h5") as f:
        assert list(f) == ["libckpt"]


def test_one_generation_stands_however_often_a_path_is_saved_to(tmp_path):
    path = tmp_path / "m.weights.json"
    session = lib.session(str(path), save_weights_only=True, max_shard_bytes=ctypes.c_uint64(40))
    seen = set()
    for n in range(30):
        tensors = {f"a/vars/{i}": np.full(10, n, "float32") for i in range(3 + n % 4)}
        save(path, tensors, session=session)
        assert_same(lib.read(path), tensors)
        assert len(generations(path)) == 1
        assert len(list(tmp_path.glob("m*"))) == len(tensors) + 2
        seen |= generations(path)
    assert len(seen) == 30
    lib.c.ckpt_free(session)


def test_keras_and_we_save_over_each_other(tmp_path):
    model = build("dense")
    path = tmp_path / "m.weights.json"
    for seed in range(4):
        models.randomize(model, seed)
        tensors, names = models.saved(model)
        expected = models.values(model)
        if seed % 2:
            save(path, tensors, names, 100)
        else:
            model.save_weights(path, max_shard_size=300 / 2**30)
        assert_same(lib.read(path), tensors)
        models.randomize(model, 9)
        model.load_weights(path)
        assert_same(models.values(model), expected)
    # Its shards stay: only it can tell whether they are of use.
    assert (tmp_path / "m_00001.weights.h5").exists()
    assert len(generations(path)) == 1


def test_a_model_is_saved_without_a_session(tmp_path):
    model = build("dense")
    tensors, names = models.saved(model)
    expected = models.values(model)
    path = tmp_path / "größe.b.weights.json"
    lib.save(path, tensors, names)
    assert_same(lib.read(path), tensors)
    assert {name for files in weight_map(path).values() for name in files} == {
        f"größe.b_{generations(path).pop()}_00000.weights.h5"}
    models.randomize(model, 9)
    model.load_weights(path)
    assert_same(models.values(model), expected)


def test_too_many_files_are_a_clear_error(tmp_path):
    resource = pytest.importorskip("resource", reason="only POSIX has limits")
    path = tmp_path / "m.weights.json"
    old = {"a/vars/0": np.ones(1, "float32")}
    save(path, old)
    before = sorted(tmp_path.iterdir())
    tensors = {f"a/vars/{i}": np.zeros(1, "float32") for i in range(300)}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 100, hard))
    try:
        with pytest.raises(Failure, match=r"CKPT_E_IO: .*all 302 files .*ulimit -n") as failure:
            save(path, tensors, most=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(path) in str(failure.value)
    assert sorted(tmp_path.iterdir()) == before
    assert_same(lib.read(path), old)


WRITER = """
import ctypes, itertools, sys
import numpy as np
from capi import Lib
lib = Lib()
session = lib.session(sys.argv[1], save_weights_only=True, max_shard_bytes=ctypes.c_uint64(1000))
models = []
for n in (1, 2):
    arrays = {f"layers/dense/vars/{i}": np.full(shape, n, "float32") for i, shape in enumerate([(100, 100), (100,)])}
    arrays |= {f"layers/dense_1/vars/{i}": np.full(shape, n, "float32") for i, shape in enumerate([(100, 3), (3,)])}
    models.append((lib.model(arrays), arrays))
for epoch, (model, _) in enumerate(itertools.cycle(models)):
    lib.epoch_end(session, epoch, val_loss=1.0)
    lib("ckpt_save", session, model)
    print(epoch, flush=True)
"""


def test_a_killed_save_leaves_a_whole_checkpoint(tmp_path):
    path = tmp_path / "m.weights.json"
    model = keras.Sequential([layers.Input((100,)), layers.Dense(100), layers.Dense(3)])
    where = pathlib.Path(__file__).parent
    torn = 0
    for n in range(15):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=where, stdout=subprocess.PIPE,
                                  env=os.environ | {"CKPT_TEST_LIBRARY": os.path.abspath(os.environ["CKPT_TEST_LIBRARY"])})
        assert writer.stdout.readline(), "the writer saves nothing"
        time.sleep(0.003 * n)
        assert writer.poll() is None, "the writer has ended"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        torn += len([p for p in tmp_path.iterdir() if not p.name.startswith(".ckpt-lock")]) > 6
        found = lib.read(path)
        value = found["layers/dense_1/vars/1"][0]
        assert value in (1, 2) and all((a == value).all() for a in found.values()), "torn"
        model.load_weights(path)
        assert all((np.asarray(w) == value).all() for w in model.weights), "torn for Keras"
    assert torn > 3, f"only {torn} of 15 writers died in a save"
    tensors = {"a/vars/0": np.ones(1, "float32")}
    save(path, tensors)
    assert len(generations(path)) == 1
    assert sorted(p.name[:2] for p in tmp_path.iterdir()) == ["m.", "m_", "m_"], "a save takes what others left"


@pytest.mark.parametrize("name", ["keep.weights.json", "m.weights.json.bak", "m.json"])
@pytest.mark.parametrize("put_aside", [os.rename, os.link, shutil.copy])
def test_an_index_that_is_put_aside_keeps_its_shards(put_aside, name, tmp_path):
    path = tmp_path / "m.weights.json"
    save(path, {"a/vars/0": np.full(9, 1, "float32")})
    put_aside(path, tmp_path / name)
    for value in (2, 3):
        save(path, {"a/vars/0": np.full(9, value, "float32")})
        assert (lib.read(path)["a/vars/0"] == value).all()
        assert (lib.read(tmp_path / name)["a/vars/0"] == 1).all()
    (tmp_path / name).unlink()
    save(path, {"a/vars/0": np.full(9, 4, "float32")})
    assert len(generations(path)) == 1


@pytest.mark.parametrize("broken", ["empty", "text", "dangling link"])
def test_keras_loads_where_a_broken_file_was_in_the_way(broken, tmp_path):
    first = tmp_path / "m_00000.weights.h5"
    if broken == "dangling link":
        first.symlink_to(tmp_path / "nowhere")
    else:
        first.write_bytes(b"" if broken == "empty" else b"no HDF5 file")
    model = build("dense")
    tensors, names = models.saved(model)
    save(tmp_path / "m.weights.json", tensors, names)
    model.load_weights(tmp_path / "m.weights.json")
    assert_same(models.saved(model)[0], tensors)


def test_a_directory_in_the_way_of_the_first_file_is_named(tmp_path):
    first = tmp_path / "m_00000.weights.h5"
    first.mkdir()
    with pytest.raises(Failure, match="m_00000.weights.h5.*irectory"):
        save(tmp_path / "m.weights.json", {"a/vars/0": np.ones(1, "float32")})
    assert list(tmp_path.iterdir()) == [first]
