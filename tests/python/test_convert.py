"""ckpt_convert: reading any format and writing any, Keras judging the results."""
import json
import os
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
import h5py
import keras
import numpy as np
import pytest
from keras import layers

from capi import Failure, Lib
from test_keras import FILES, as_h5, assert_same, build, randomize, values, with_assets

lib = Lib()
ENDINGS = [".weights.h5", ".keras", ".h5", ".weights.json", ".safetensors"]
WEIGHTS_ONLY = [".weights.h5", ".weights.json"]


def dense():
    return keras.Sequential([layers.Input((5,)), layers.Dense(4, "relu"), layers.Dense(3, name="größe")])


def nested():
    inner = keras.Sequential(
        [layers.Input((4, 4, 3)), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten()], name="inner")
    x = keras.Input((4, 4, 3))
    y = layers.BatchNormalization()(layers.Dense(2)(inner(x)))
    return keras.Model(x, [y, layers.Dense(11)(y)])


def recurrent():
    return keras.Sequential([
        layers.Input((6,), dtype="int32"), layers.Embedding(11, 4), layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.GRU(5), layers.LayerNormalization(), *(layers.Dense(2) for _ in range(11))])


def mixed():
    return keras.Sequential([layers.Input((4,)), layers.Dense(3, dtype="mixed_bfloat16"),
                             layers.Dense(3, dtype="bfloat16"), layers.Dense(2, dtype="float16")])


def convert(src, dst):
    lib("ckpt_convert", os.fspath(src).encode(), os.fspath(dst).encode())
    return dst


@pytest.mark.parametrize("make", [dense, nested, recurrent, mixed], ids=lambda f: f.__name__)
def test_from_keras_to_all_and_back(make, tmp_path):
    model = build(make)
    want = values(model)
    model.save(tmp_path / "k.keras")
    tensors = lib.read(tmp_path / "k.keras")
    for ending in ENDINGS:
        there = convert(tmp_path / "k.keras", tmp_path / f"there{ending}")
        assert_same(lib.read(there), tensors)
        if ending != ".safetensors":
            keras_reads(there, model, want)
        # What has no room for a configuration cannot become a model again.
        for back in ENDINGS:
            if ending in WEIGHTS_ONLY and back in (".keras", ".h5"):
                with pytest.raises(Failure, match="configuration") as e:
                    convert(there, tmp_path / f"back{back}")
                assert e.value.status == "CKPT_E_STATE"
                assert not (tmp_path / f"back{back}").exists()
                continue
            back = convert(there, tmp_path / f"back{back}")
            assert_same(lib.read(back), tensors)
            if back.suffix != ".safetensors":
                keras_reads(back, model, want)
            os.remove(back)


def keras_reads(path, model, want):
    if path.name.endswith((".weights.h5", ".weights.json")):
        randomize(model, 3)
        model.load_weights(path)
        assert_same(values(model), want)
    else:
        keras.utils.clear_session()
        loaded = keras.models.load_model(path)
        assert_same(dict(zip(want, values(loaded).values())), want)


@pytest.mark.parametrize("make", [dense, nested, recurrent, mixed], ids=lambda f: f.__name__)
def test_from_what_keras_wrote(make, tmp_path):
    model = build(make)
    want = values(model)
    model.save(tmp_path / "k.h5")
    model.save_weights(tmp_path / "k.weights.h5")
    model.save_weights(tmp_path / "k.weights.json", max_shard_size=1e-7)
    tensors = lib.read(tmp_path / "k.weights.h5")
    for ending in (".h5", ".weights.json"):
        assert_same(lib.read(convert(tmp_path / f"k{ending}", tmp_path / "a.weights.h5")), tensors)
        keras_reads(tmp_path / "a.weights.h5", model, want)
    keras_reads(convert(tmp_path / "k.h5", tmp_path / "a.keras"), model, want)


def test_nothing_is_lost_on_the_way(tmp_path):
    """Assets, names, configuration and training state, where the format has room for them."""
    model = build(with_assets)
    model.save(tmp_path / "k.keras")
    convert(tmp_path / "k.keras", tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "k.keras") as k, zipfile.ZipFile(tmp_path / "a.keras") as a:
        assert sorted(k.namelist()) == sorted(a.namelist())
        for name in a.namelist():
            if name not in ("metadata.json", "model.weights.h5"):
                assert k.read(name) == a.read(name)
    assert as_h5(tmp_path / "a.keras")[1] == as_h5_names(tmp_path / "k.keras", tmp_path)
    keras.utils.clear_session()
    assert keras.models.load_model(tmp_path / "a.keras").layers[0].files == FILES

    session = lib.session(str(tmp_path / "s-{epoch}.weights.h5"), save_weights_only=True)
    x = {"x": np.arange(3, dtype="float32")}
    model = lib.model(x)
    lib.epoch_end(session, 4, val_loss=0.25)
    lib("ckpt_save", session, model)
    lib.c.ckpt_free(session)
    lib.c.ckpt_model_free(model)
    convert(tmp_path / "s-5.weights.h5", tmp_path / "t.safetensors")
    convert(tmp_path / "t.safetensors", tmp_path / "u.weights.h5")
    assert (tmp_path / "u.weights.h5").read_bytes() == (tmp_path / "s-5.weights.h5").read_bytes()


def as_h5_names(archive, tmp_path):
    with zipfile.ZipFile(archive) as z:
        z.extract("model.weights.h5", tmp_path)
    return as_h5(tmp_path / "model.weights.h5")[1]


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


def test_onto_itself(tmp_path):
    lib.save(tmp_path / "a.weights.h5", {"x": np.arange(3, dtype="float32")})
    before = (tmp_path / "a.weights.h5").read_bytes()
    convert(tmp_path / "a.weights.h5", tmp_path / "a.weights.h5")
    assert (tmp_path / "a.weights.h5").read_bytes() == before


def test_refusals(tmp_path):
    from safetensors.numpy import save_file
    lib.save(tmp_path / "a.weights.h5", {"x": np.arange(3, dtype="float32")})
    for src, dst, status, message in [
            ("none.keras", "b.keras", "CKPT_E_NOT_FOUND", "none.keras"),
            ("a.weights.h5", "b.onnx", "CKPT_E_UNSUPPORTED", "b.onnx"),
            ("a.weights.h5", "b.keras", "CKPT_E_STATE", "a.weights.h5"),
            ("slash.safetensors", "b.weights.h5", "CKPT_E_INVALID_ARGUMENT", "a//b")]:
        save_file({"a//b": np.zeros(2, "float32")}, tmp_path / "slash.safetensors")
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
