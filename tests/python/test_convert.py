"""ckpt_convert: any format read, any written, and Keras judging what comes of it."""
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest

import models
from capi import Failure, Lib
from hdf5 import assert_same, contents
from test_models import CANNOT_LOAD, CANNOT_WRITE, as_legacy
from test_keras import FILES, with_assets  # noqa: F401 (a fixture)

lib = Lib()
ENDINGS = ["weights.h5", "keras", "h5", "weights.json", "safetensors"]
WEIGHTS_ONLY = {"weights.h5", "weights.json"}

# Layers within a layer of the user's own, which have no order in a file of today, and need one in the legacy format.
NO_ORDER = "containers"


def convert(src, dst):
    lib("ckpt_convert", os.fspath(src).encode(), os.fspath(dst).encode())
    return dst


def built(name):
    model = models.build(name)
    models.randomize(model, 2)
    return model, dict(enumerate(models.values(model).values()))


def keras_reads(path, model, want):
    if path.name.endswith(".safetensors"):
        return
    if path.name.endswith((".weights.h5", ".weights.json")):
        models.randomize(model, 3)
        model.load_weights(path)
    else:
        model = models.load(path)
    assert_same(dict(enumerate(models.values(model).values())), want)


@pytest.mark.parametrize("name", models.MODELS)
def test_keras_reads_what_becomes_of_a_model(name, tmp_path):
    """From .keras to every format."""
    model, want = built(name)
    model.save(tmp_path / "k.keras")
    tensors = lib.read(tmp_path / "k.keras")
    for ending in ENDINGS:
        if ending == "h5" and name == NO_ORDER:
            continue
        to = convert(tmp_path / "k.keras", tmp_path / f"to.{ending}")
        assert_same(lib.read(to), tensors)
        if ending != "h5" or name not in CANNOT_LOAD:
            keras_reads(to, model, want)


def test_an_order_that_is_not_known_is_not_guessed(tmp_path):
    built(NO_ORDER)[0].save(tmp_path / "k.keras")
    with pytest.raises(Failure, match="layer 'blocks'.*'layers/blocks.*order is not known") as e:
        convert(tmp_path / "k.keras", tmp_path / "to.h5")
    assert e.value.status == "CKPT_E_UNSUPPORTED"
    assert not (tmp_path / "to.h5").exists()


@pytest.mark.parametrize("name", sorted(models.MODELS.keys() - CANNOT_WRITE.keys() - {NO_ORDER}))
def test_keras_reads_what_becomes_of_a_legacy_file(name, tmp_path):
    """From a .h5 that Keras wrote to what Keras writes today."""
    model, want = built(name)
    model.save(tmp_path / "k.h5")
    to = convert(tmp_path / "k.h5", tmp_path / "to.weights.h5")
    assert_same(lib.read(to), as_legacy(*models.saved(model))[0])
    convert(tmp_path / "k.h5", tmp_path / "to.keras")
    keras_reads(tmp_path / "to.keras", model, want)


@pytest.mark.parametrize("src", ENDINGS)
@pytest.mark.parametrize("dst", ENDINGS)
def test_there_and_back(src, dst, tmp_path):
    """Every format to every other; what has room for a configuration passes it on."""
    model, want = built("nested_normalized")
    model.save(tmp_path / "k.keras")
    there = convert(tmp_path / "k.keras", tmp_path / f"there.{src}")
    if src in WEIGHTS_ONLY and dst in ("keras", "h5"):
        with pytest.raises(Failure, match="configuration") as e:
            convert(there, tmp_path / f"back.{dst}")
        assert e.value.status == "CKPT_E_STATE"
        assert not (tmp_path / f"back.{dst}").exists()
        return
    back = convert(there, tmp_path / f"back.{dst}")
    assert_same(lib.read(back), lib.read(tmp_path / "k.keras"))
    keras_reads(back, model, want)


def test_shards_of_keras(tmp_path):
    model, want = built("dense")
    model.save_weights(tmp_path / "k.weights.json", max_shard_size=1e-7)
    model.save_weights(tmp_path / "k.weights.h5")
    to = convert(tmp_path / "k.weights.json", tmp_path / "to.weights.h5")
    assert_same(lib.read(to), lib.read(tmp_path / "k.weights.h5"))
    keras_reads(to, model, want)


def test_nothing_is_lost_on_the_way(with_assets, tmp_path):  # noqa: F811
    """Assets, names and configuration; and the training state, in every format."""
    ours = with_assets[0]
    convert(ours, tmp_path / "to.keras")
    with zipfile.ZipFile(ours) as a, zipfile.ZipFile(tmp_path / "to.keras") as b:
        assert a.namelist() == b.namelist()
        for name in a.namelist():
            if name not in ("metadata.json", "model.weights.h5"):
                assert a.read(name) == b.read(name)
    assert contents(tmp_path / "to.keras")[1] == contents(ours)[1]
    keras.utils.clear_session()
    assert keras.models.load_model(tmp_path / "to.keras").layers[0].files == FILES

    session = lib.session(str(tmp_path / "s-{epoch}.weights.h5"), save_weights_only=True)
    model = lib.model({"layers/dense/vars/0": np.arange(3, dtype="float32")}, {"layers/dense": "größe"})
    lib.epoch_end(session, 4, val_loss=0.25)
    lib("ckpt_save", session, model)
    lib.c.ckpt_free(session)
    lib.c.ckpt_model_free(model)
    for ending in WEIGHTS_ONLY | {"safetensors"}:
        convert(tmp_path / "s-5.weights.h5", tmp_path / f"there.{ending}")
        convert(tmp_path / f"there.{ending}", tmp_path / "back.weights.h5")
        assert (tmp_path / "back.weights.h5").read_bytes() == (tmp_path / "s-5.weights.h5").read_bytes(), ending


def test_what_others_packed(tmp_path):
    """Chunked, compressed and big-endian datasets become plain ones."""
    a = np.arange(1000, dtype=">f4").reshape(10, 100)
    with h5py.File(tmp_path / "p.weights.h5", "w") as f:
        f.create_dataset("layers/dense/vars/0", data=a, chunks=(3, 7), compression="gzip", shuffle=True)
    convert(tmp_path / "p.weights.h5", tmp_path / "q.weights.h5")
    with h5py.File(tmp_path / "q.weights.h5") as f:
        d = f["layers/dense/vars/0"]
        assert d.chunks is None and d.dtype == "<f4"
        assert (d[()] == a).all()


def test_nothing_is_dropped_in_silence(tmp_path):
    """What is no tensor here is named, before anything is written."""
    import ml_dtypes
    from safetensors.numpy import save_file
    save_file({"a": np.zeros(2, "float32"), "f8": np.zeros(2, ml_dtypes.float8_e4m3fn)}, tmp_path / "f.safetensors")
    with h5py.File(tmp_path / "t.weights.h5", "w") as f:
        f["a"], f["f8"] = np.zeros(2, "float32"), ["text"]
    for src in ("f.safetensors", "t.weights.h5"):
        assert lib.read(tmp_path / src).keys() == {"a"}
        before = (tmp_path / src).read_bytes()
        for dst in (src, "b.weights.h5"):
            with pytest.raises(Failure, match="'f8'") as e:
                convert(tmp_path / src, tmp_path / dst)
            assert e.value.status == "CKPT_E_UNSUPPORTED"
        assert (tmp_path / src).read_bytes() == before and not (tmp_path / "b.weights.h5").exists()


def test_onto_itself(tmp_path):
    lib.save(tmp_path / "a.weights.h5", {"x": np.arange(3, dtype="float32")})
    before = (tmp_path / "a.weights.h5").read_bytes()
    convert(tmp_path / "a.weights.h5", tmp_path / "a.weights.h5")
    assert (tmp_path / "a.weights.h5").read_bytes() == before


def test_refusals(tmp_path):
    from safetensors.numpy import save_file
    lib.save(tmp_path / "a.weights.h5", {"x": np.arange(3, dtype="float32")})
    save_file({"a//b": np.zeros(2, "float32")}, tmp_path / "slash.safetensors")
    for src, dst, status, message in [
            ("none.keras", "b.keras", "CKPT_E_NOT_FOUND", "none.keras"),
            ("a.weights.h5", "b.onnx", "CKPT_E_UNSUPPORTED", "b.onnx"),
            ("a.weights.h5", "b.keras", "CKPT_E_STATE", "a.weights.h5"),
            ("slash.safetensors", "b.weights.h5", "CKPT_E_INVALID_ARGUMENT", "a//b")]:
        with pytest.raises(Failure, match=message) as e:
            convert(tmp_path / src, tmp_path / dst)
        assert e.value.status == status
        assert not (tmp_path / dst).exists()
    damaged = bytearray((tmp_path / "a.weights.h5").read_bytes())
    damaged[damaged.rindex(np.arange(3, dtype="float32").tobytes())] ^= 1
    (tmp_path / "a.weights.h5").write_bytes(damaged)
    with pytest.raises(Failure, match="checksum") as e:
        convert(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
    assert e.value.status == "CKPT_E_FORMAT"
    assert not (tmp_path / "b.weights.h5").exists()
