"""Makes the golden files of .weights.h5 and .keras, with their expectations (tests/golden/README.md).

    golden.py DIRECTORY

An expectation is what h5py and zipfile read from a file: `expectation(...)` is for the files of other formats too.
"""
import ctypes
import json
import os
import pathlib
import sys
import zipfile
import zlib

os.environ["KERAS_BACKEND"] = "numpy"
import h5py
import keras
import ml_dtypes
import numpy as np
from keras import layers

from capi import DTYPES, ON_NAN_KERAS, Lib
from hdf5 import contents

OURS, KERAS = "libckpt-0.1", "keras-3.15"


def expectation(tensors, names=(), **texts):
    """The lines for {path: array}, {group: name}, and what is there besides: config=, metadata=, state=, as bytes."""
    lines = [f"{path} {a.dtype} [{','.join(map(str, a.shape))}] {zlib.crc32(np.ascontiguousarray(a).tobytes()):08x}"
             for path, a in tensors.items()]
    lines += [f"@name {group}/vars {name}".replace("@name /", "@name ") for group, name in dict(names).items()]
    lines += [f"@{key} {zlib.crc32(text):08x}" for key, text in texts.items()]
    return "".join(f"{line}\n" for line in sorted(lines))


def read(file):
    """What an HDF5 file holds: {path: array}, {group: name}, and the state, which only ours have."""
    with h5py.File(file) as f:
        state = f["libckpt/state"][()].tobytes().rstrip(b" ") if "libckpt/state" in f else b""
    return *contents(file), {"state": state} if state else {}


def expect(path):
    """Puts its expectation beside a file."""
    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            with archive.open("model.weights.h5") as member:
                tensors, names, texts = read(member)
            texts |= {key: archive.read(f"{key}.json") for key in ("config", "metadata")}
    else:
        tensors, names, texts = read(path)
    path.with_name(path.name + ".expected").write_text(expectation(tensors, names, **texts))


def everything():
    """Tensors of every dtype and kind of shape, in small groups and in one that needs a symbol table."""
    rng = np.random.default_rng(0)
    tensors = {}
    for dtype in DTYPES:
        kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        for i, shape in enumerate([(), (3,), (2, 0), (4, 3, 2)]):
            bits = rng.integers(0, 2 if dtype == "bool" else 256, (*shape, kind.itemsize), dtype="uint8")
            tensors[f"layers/{dtype}/vars/{i}"] = bits.view(kind).reshape(shape)
    tensors |= {f"many/vars/{i}": np.asarray(i, "float32") for i in range(60)}
    tensors["größe/✓ 0/turned"] = np.arange(12, dtype="int32").reshape(3, 4).T
    tensors["deep/" * 20 + "x"] = np.arange(3, dtype="uint8")
    names = {f"layers/{dtype}": f"the {dtype} ✓" for dtype in DTYPES} | {"": "everything", "empty/group": "no tensor"}
    return tensors, names


def write_ours(directory):
    lib = Lib()
    tensors, names = everything()
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "é", "layers": []}})
    assets = {"layers/string_lookup/vocabulary.txt": "the\nquick\n".encode(), "größe/✓": b"\0\xff", "empty": b""}
    model = lib.model(tensors, names, config, assets)
    for folder, ending in [("weights-h5", "weights.h5"), ("keras", "keras")]:
        path = directory / folder / "good" / f"{OURS}-everything.{ending}"
        session = lib.session(str(path), save_weights_only=ctypes.c_bool(ending == "weights.h5"), on_nan=ON_NAN_KERAS)
        lib.epoch_end(session, 6, loss=0.25, val_loss=float("nan"))
        lib("ckpt_save", session, model)
        lib.c.ckpt_free(session)
        expect(path)
    lib.c.ckpt_model_free(model)
    empty = directory / "weights-h5" / "good" / f"{OURS}-empty.weights.h5"
    lib.save(empty, {})
    expect(empty)


class Bag(layers.Layer):
    """Sublayers in containers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(2), {"inner": layers.Dense(2), "list": [layers.Dense(2)]}]
        self.twice = layers.Dense(2)

    def call(self, x):
        x = self.parts[1]["inner"](self.parts[0](x))
        return self.twice(self.parts[1]["list"][0](x))


def models():
    yield keras.Sequential([layers.Input((5,)), layers.Dense(4, "relu"), layers.Dropout(0.5), layers.Dense(3)], name="dense")
    yield keras.Sequential([layers.Input((6,)), layers.Embedding(5, 2), layers.Bidirectional(layers.GRU(2)),
                            layers.BatchNormalization(), layers.Dense(1, name="größe ✓")], name="recurrent")
    yield keras.Sequential([layers.Input((2,)), layers.Dense(2, dtype="bfloat16"), layers.Dense(2, dtype="float16"),
                            layers.Dense(2, dtype="float64")], name="low")
    yield keras.Sequential([layers.Input((2,)), Bag(), layers.Dense(1)], name="containers")


def write_keras(directory):
    keras.utils.set_random_seed(1)
    for model in models():
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        for folder, ending, save in [("weights-h5", "weights.h5", model.save_weights), ("keras", "keras", model.save)]:
            path = directory / folder / "good" / f"{KERAS}-{model.name}.{ending}"
            save(path)
            expect(path)


if __name__ == "__main__":
    write_ours(pathlib.Path(sys.argv[1]))
    write_keras(pathlib.Path(sys.argv[1]))
