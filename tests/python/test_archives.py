"""The `.keras` archive: the tools of zip and HDF5 agree on it, also above 4 GiB and with a large configuration."""
import contextlib
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")
import ctypes
import h5py
import keras
import numpy as np
import pytest
from keras.src.saving import saving_lib

import models
from capi import Failure, Lib
from hdf5 import assert_same, contents

lib = Lib()
CONFIG = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "é", "layers": []}})
ASSETS = {"layers/vocabulary/größe ✓.txt": b"the\nquick\n" * 5000, "empty": b"", "z/y/x": bytes(range(256))}


def tool(*command):
    """What a tool prints; it has to be there, and to be content."""
    env = dict(os.environ, LC_ALL="C.UTF-8", TZ="UTC")  # the dates in an archive are local, whatever that is
    run = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True)
    assert run.returncode == 0 and not run.stderr, run
    return run.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An archive of ours with all it can have, and its tensors."""
    rng = np.random.default_rng(1)
    tensors = {f"layers/dense_{i}/vars/{k}": rng.standard_normal((5, 3)).astype("float32") for i in range(40) for k in "01"}
    tensors |= {"größe/✓": np.arange(300_000, dtype="int64"), "optimizer/vars/0": np.array(7, "int32"),
                "none": np.zeros((0, 3), "float16")}
    path = tmp_path_factory.mktemp("archive") / "ours.keras"
    lib.save(path, tensors, {"layers/dense_0": "dense"}, CONFIG, ASSETS)
    return path, tensors


def members(path):
    """What Python's zipfile says: (name, size, CRC, date) of each member."""
    with zipfile.ZipFile(path) as z:
        assert z.testzip() is None
        return [(i.filename, i.file_size, i.CRC, datetime.datetime(*i.date_time)) for i in z.infolist()]


def test_zip_tools_agree(archive, tmp_path):
    path, _ = archive
    listed = members(path)
    assert [m[0] for m in listed] == ["model.weights.h5", "metadata.json", "config.json",
                                      *sorted((f"assets/{n}" for n in ASSETS), key=str.encode)]
    assert "No errors detected" in tool("unzip", "-t", path)

    # Length, Method, Size, Cmpr, Date, Time, CRC-32, Name
    rows = [line.split(None, 7) for line in tool("unzip", "-lv", path).splitlines() if " Stored " in line]
    assert [(r[7], int(r[0]), int(r[2]), int(r[6], 16), f"{r[4]} {r[5]}") for r in rows] == [
        (name, size, size, crc, f"{date:%Y-%m-%d %H:%M}") for name, size, crc, date in listed]

    rows = [line.split(None, 8) for line in tool("zipinfo", "-lT", path).splitlines() if line.startswith("-rw")]
    assert [(r[8], int(r[3]), int(r[5]), r[6], r[7]) for r in rows] == [
        (name, size, size, "stor", f"{date:%Y%m%d.%H%M%S}") for name, size, _, date in listed]

    rows = [line.split(None, 8) for line in tool("bsdtar", "-tvf", path).splitlines()]
    assert [(r[8], r[0], int(r[4]), " ".join(r[5:8])) for r in rows] == [
        (name, "-rw-------", size, f"{date:%b} {date.day} {date:%H:%M}") for name, size, _, date in listed]

    for unpack in (["unzip", "-q", path, "-d"], ["bsdtar", "-xf", path, "-C"]):
        into = tmp_path / unpack[0]
        into.mkdir()
        tool(*unpack, into)
        assert sorted(str(p.relative_to(into)) for p in into.rglob("*") if p.is_file()) == sorted(m[0] for m in listed)
        for name, size, crc, date in listed:
            data = (into / name).read_bytes()
            assert (len(data), zlib.crc32(data)) == (size, crc)
            saved = datetime.datetime.fromtimestamp((into / name).stat().st_mtime, datetime.UTC).replace(tzinfo=None)
            assert saved == date


def test_hdf5_tools_agree(archive, tmp_path):
    """The archive in place, and the member alone."""
    path, tensors = archive
    tool("unzip", "-q", path, "model.weights.h5", "-d", tmp_path)
    for file in (path, tmp_path / "model.weights.h5"):
        assert_same(contents(file)[0], tensors)
        paths = re.findall(r"^ dataset +(/\S+)", tool("h5dump", "-n", file), re.M)
        assert sorted(paths) == sorted(f"/{p}" for p in [*tensors, "libckpt/checksums", "libckpt/state"])
        for name in ("größe/✓", "layers/dense_7/vars/1"):
            tool("h5dump", "-d", name, "-b", "LE", "-o", tmp_path / "raw", file)
            assert (tmp_path / "raw").read_bytes() == tensors[name].tobytes()
        listing = tool("h5ls", "-r", file)
        assert "/layers/dense_39/vars/1  Dataset {5, 3}" in listing and "/none                    Dataset {0, 3}" in listing


def test_metadata_is_as_keras_writes_it(tmp_path):
    """Keras' text, letter by letter, but for the date."""
    model = models.build("dense")
    model.save(tmp_path / "keras.keras")
    lib.save(tmp_path / "ours.keras", {}, config=CONFIG)
    texts = []
    for name in ("keras", "ours"):
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as z:
            text = z.read("metadata.json").decode()
        saved = datetime.datetime.strptime(json.loads(text)["date_saved"], "%Y-%m-%d@%H:%M:%S")
        assert abs(datetime.datetime.now() - saved) < datetime.timedelta(minutes=10)
        texts.append(text.replace(json.loads(text)["date_saved"], "..."))
    assert texts[0] == texts[1]
    assert keras.__version__ in texts[0]


@pytest.mark.parametrize("zone, hours", [("UTC", 0), ("Asia/Kathmandu", 5.75), ("Etc/GMT+11", -11), (":/nowhere", 0)])
def test_dates_are_local(zone, hours, tmp_path):
    script = f"""
from capi import Lib
Lib().save({str(tmp_path / "x.keras")!r}, {{}}, config={CONFIG!r})
"""
    before = datetime.datetime.now(datetime.UTC).replace(tzinfo=None, microsecond=0)
    subprocess.run([sys.executable, "-c", script], env=dict(os.environ, TZ=zone), cwd=Path(__file__).parent, check=True)
    after = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    with zipfile.ZipFile(tmp_path / "x.keras") as z:
        text = json.loads(z.read("metadata.json"))["date_saved"]
        saved = datetime.datetime.strptime(text, "%Y-%m-%d@%H:%M:%S")
        assert before <= saved - datetime.timedelta(hours=hours) <= after
        assert {i.date_time for i in z.infolist()} == {(*saved.timetuple()[:5], saved.second // 2 * 2)}


@keras.saving.register_keras_serializable("ckpt_tests")
class Words(keras.layers.Layer):
    """A layer whose configuration is large, as that of a tokenizer is."""

    def __init__(self, words, **kwargs):
        super().__init__(**kwargs)
        self.words = words

    def call(self, x):
        return x

    def get_config(self):
        return super().get_config() | {"words": self.words}


def test_a_configuration_of_many_megabytes(tmp_path):
    words = [f"{i} ✓ \"größe\" " * 20 for i in range(14_000)]
    model = keras.Sequential([keras.layers.Input((2,)), Words(words), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    models.randomize(model, 2)
    tensors, names = models.saved(model)
    config = models.config(model)
    assert len(config) > 8 << 20
    # As Keras writes it, in ASCII, and in UTF-8.
    for text in (config, json.dumps(json.loads(config), ensure_ascii=False)):
        path = tmp_path / "ours.keras"
        lib.save(path, tensors, names, text)
        with zipfile.ZipFile(path) as z:
            assert z.read("config.json").decode() == text
        loaded = keras.models.load_model(path)
        assert loaded.layers[0].words == words
        assert_same(dict(enumerate(models.values(loaded).values())), dict(enumerate(models.values(model).values())))
        assert_same(lib.read(path), tensors)


@contextlib.contextmanager
def room_for(directory, nbytes):
    """A directory for a large file, gone afterwards: pytest would keep it for three runs."""
    free = shutil.disk_usage(directory).free
    assert free > nbytes, f"{directory} has room for {free} bytes, and this test needs {nbytes}"
    large = directory / "large"
    large.mkdir()
    try:
        yield large
    finally:
        shutil.rmtree(large)


def test_zip64(tmp_path):
    """A file above 4 GiB, through the whole library: 4.3 GiB of zeros that take no memory, but room on the disk."""
    size = (4 << 30) + (256 << 20)
    tensors = {"layers/a/vars/0": np.arange(5.0), "layers/big/vars/0": np.zeros(size, "uint8"),
               "layers/z/vars/0": np.arange(7, dtype="int32")}
    with room_for(tmp_path, size + (64 << 20)) as directory:
        path = directory / "large.keras"
        # Without an fsync most of it never has to reach the disk.
        lib.save(path, tensors, {}, CONFIG, {"behind": b"it"}, durability=ctypes.c_int(1))

        with zipfile.ZipFile(path) as z:
            weights, metadata, config, asset = z.infolist()
            assert weights.file_size == weights.compress_size > size and weights.header_offset == 0
            assert size < metadata.header_offset < config.header_offset < asset.header_offset
            assert z.read("config.json").decode() == CONFIG and z.read("assets/behind") == b"it"
            assert json.loads(z.read("metadata.json"))["keras_version"] == keras.__version__
            saving_lib._reject_zip_bomb(z, "model.weights.h5")
            saving_lib._reject_zip_extract_bomb(z)
        listed = [(i.filename, i.file_size) for i in (weights, metadata, config, asset)]
        rows = [line.split(None, 3) for line in tool("unzip", "-l", path).splitlines() if re.match(r" *\d+  \d{4}-", line)]
        assert [(r[3], int(r[0])) for r in rows] == listed
        rows = [line.split(None, 9) for line in tool("zipinfo", "-l", path).splitlines() if line.startswith("-rw")]
        assert [(r[9].strip(), int(r[3]), int(r[5]), r[1]) for r in rows] == [(n, s, s, "4.5") for n, s in listed]
        rows = [line.split(None, 8) for line in tool("bsdtar", "-tvf", path).splitlines()]
        assert [(r[8], int(r[4])) for r in rows] == listed

        with h5py.File(path) as f:  # in place
            big = saving_lib.safe_get_h5_dataset(f, "layers/big/vars/0")
            assert big.shape == (size,) and not big[-4096:].any() and not big[(4 << 30) - 50:(4 << 30) + 50].any()
            assert f["layers/a/vars/0"][()].tolist() == tensors["layers/a/vars/0"].tolist()
            assert f["layers/z/vars/0"][()].tolist() == tensors["layers/z/vars/0"].tolist()
            assert big.id.get_offset() + size <= f["layers/z/vars/0"].id.get_offset()

        with lib.reader(path) as reader:
            lib("ckpt_reader_verify", reader)  # the members' CRCs too
            found = {}
            for name in ("layers/a/vars/0", "layers/z/vars/0"):
                index = lib.make("ckpt_reader_find", reader, name.encode(), kind=ctypes.c_size_t)
                found[name] = a = np.empty_like(tensors[name])
                lib("ckpt_reader_read", reader, index, ctypes.c_void_p(a.ctypes.data), ctypes.c_size_t(a.nbytes))
        assert_same(found, {name: tensors[name] for name in found})


def test_assets_of_one_model(tmp_path):
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": []}})
    x = {"x": np.arange(3, dtype="float32")}
    model = lib.model(x, config=config, assets={"a/b": b"first"})

    def saved(name="a.keras"):
        lib("ckpt_model_save", model, os.fspath(tmp_path / name).encode())
        with open(tmp_path / name, "rb") as f:
            if not zipfile.is_zipfile(f):
                return None
        with zipfile.ZipFile(tmp_path / name) as z:
            return {n: z.read(n) for n in z.namelist()[3:]}

    def put(name, data):
        data = ctypes.create_string_buffer(data, len(data)) if data is not None else None
        lib("ckpt_model_set_asset", model, name.encode(), data, ctypes.c_size_t(len(data) if data else 0))
        if data:
            ctypes.memset(data, 0, len(data))  # it was copied

    assert saved() == {"assets/a/b": b"first"}
    put("a/b", b"second")
    put("c", None)
    assert saved() == {"assets/a/b": b"second", "assets/c": b""}
    with pytest.raises(Failure, match="cannot be a directory"):
        put("a", b"")
    assert saved() == {"assets/a/b": b"second", "assets/c": b""}
    assert saved("a.weights.h5") is None
    lib.save(tmp_path / "b.weights.h5", x)
    assert (tmp_path / "a.weights.h5").read_bytes() == (tmp_path / "b.weights.h5").read_bytes()
    lib.c.ckpt_model_free(model)
