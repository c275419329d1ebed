"""Writes the corpora of the fuzz targets that others than libckpt write: small files of h5py, Keras and zipfile.

    seeds.py

They are committed, so that a case of a seeded run is the same everywhere; run this where a new kind is added.
"""

import io
import os
import zipfile
from pathlib import Path

os.environ["KERAS_BACKEND"] = "numpy"

import h5py
import keras
import numpy as np

corpus = Path(__file__).parent / "corpus"
rng = np.random.default_rng(7)


def path(target, name):
    (corpus / target).mkdir(parents=True, exist_ok=True)
    return corpus / target / name


def put(f, name, dtype, shape, **options):
    return f.create_dataset(name, data=rng.integers(0, 2, shape).astype(dtype), **options)


def plain(f):
    """What Keras writes: groups with names, and contiguous datasets of every kind of element."""
    for i, dtype in enumerate(["float32", "float16", "int64", "uint8", "bool"]):
        put(f, f"layers/l{i}/vars/0", dtype, (3, 2))
        put(f, f"layers/l{i}/vars/1", dtype, ())
    bits = f.create_dataset("layers/b/vars/0", data=np.arange(6, dtype="uint16").view("V2"))
    bits.attrs["dtype"] = "bfloat16"
    f.create_dataset("layers/empty", (0, 3), "float32")
    f["layers/b/vars"].attrs["name"] = "größe"
    f["layers/b/vars"].attrs["fixed"] = np.bytes_("name")
    f.create_dataset("text", data="no tensor")


def stored(f):
    """Every way to store a dataset that is not contiguous, little-endian and written."""
    put(f, "big", ">f4", (3, 2))
    put(f, "chunked", "float32", (7, 5), chunks=(3, 2))
    put(f, "gzip", "int32", (8, 8), chunks=(4, 4), compression="gzip", shuffle=True)
    put(f, "lzf", "float32", (8, 8), chunks=(4, 8), compression="lzf")
    put(f, "fletcher", "float64", (6,), chunks=(4,), fletcher32=True)
    put(f, "one", "int16", (4, 4), chunks=(4, 4), compression="gzip")
    put(f, "grows", "float32", (9,), chunks=(2,), maxshape=(None,))
    put(f, "grows2", "float32", (5, 4), chunks=(2, 2), maxshape=(None, None))
    f.create_dataset("unwritten", (50,), "float32", fillvalue=0.5)
    f.create_dataset("sparse", (100, 10), "float32", chunks=(10, 10), fillvalue=-1)[35:45] = 2
    space = h5py.h5s.create_simple((5,))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    compact = h5py.h5d.create(f.id, b"compact", h5py.h5t.STD_I32LE, space, properties)
    compact.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(5, dtype="<i4"))


def dense(f):
    """More links and attributes than a header takes, and orders of creation."""
    for i in range(12):
        put(f, f"dense/{i}", "float32", (2,))
    for i in range(10):
        f["dense"].attrs[f"a{i}"] = i
    ordered = f.create_group("ordered/vars", track_order=True)
    ordered.attrs["name"] = "ordered"
    put(ordered, "1", "int8", (3,))
    put(ordered, "0", "int8", (3,))


def hdf5():
    for name, content, libver in [
        ("plain-earliest.h5", plain, "earliest"),
        ("plain-latest.h5", plain, "latest"),
        ("plain-v110.h5", plain, ("v110", "v110")),
        ("stored-earliest.h5", stored, "earliest"),
        ("stored-latest.h5", stored, "latest"),
        ("dense-latest.h5", dense, "latest"),
    ]:
        with h5py.File(path("hdf5", name), "w", libver=libver) as f:
            content(f)
    with h5py.File(path("hdf5", "user-block.h5"), "w", userblock_size=512) as f:
        put(f, "a/0", "float32", (3,))
    with h5py.File(path("hdf5", "edited.h5"), "w") as f:
        put(f, "a/vars/0", "float32", (3,))
    for i in range(4):
        with h5py.File(path("hdf5", "edited.h5"), "r+") as f:
            f["a/vars"].attrs[f"attribute {i}"] = "longer and longer " * (i + 1)
            put(f, f"a/vars/added {i}", "float32", (3,))


class Pipe(io.BytesIO):
    """A file that cannot go back."""

    def seekable(self):
        return False

    def tell(self):
        raise OSError


def models():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save_weights(path("hdf5", "keras.weights.h5"))
    model.save(path("keras", "keras.keras"))
    model.save(path("legacy", "keras.h5"))
    with zipfile.ZipFile(path("keras", "keras.keras")) as archive:
        config = archive.read("config.json")
    path("config", "keras.json").write_bytes(config)
    weights = io.BytesIO()
    with h5py.File(weights, "w") as f:
        put(f, "vars/0", "float32", (3,))
    with zipfile.ZipFile(path("keras", "again.keras"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/", b"")
        archive.writestr("assets/vocabulary.txt", b"one\ntwo\nthree\n" * 5)
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", '{"keras_version": "3.15.1", "date_saved": "2026-11-24@21:47:30"}')
        archive.writestr("model.weights.h5", weights.getvalue(), zipfile.ZIP_STORED)
    # As a program writes it that cannot go back, and with Zip64's fields.
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            member.write(weights.getvalue())
        archive.writestr("config.json", '{"module": "keras", "class_name": "M", "config": {}}')
    path("keras", "streamed.keras").write_bytes(pipe.getvalue())


if __name__ == "__main__":
    hdf5()
    models()
