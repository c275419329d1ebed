"""Makes the golden files of .weights.json, good and bad (tests/golden/README.md).

    golden_shards.py DIRECTORY
"""
import ctypes
import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "numpy"
import h5py
import keras
import numpy as np
from keras import layers

from capi import ON_NAN_KERAS, Lib
from golden import expectation
from hdf5 import contents


def expect(index):
    """Puts its expectation beside an index: what h5py finds in the shards, and the state that the index holds."""
    tensors, names = {}, {}
    content = json.loads(index.read_text())
    for shard in {shard for shards in content["weight_map"].values() for shard in shards}:
        part, part_names = contents(index.with_name(shard))
        tensors |= part
        names |= part_names
    own = content["metadata"].get("libckpt")
    texts = {"state": own["state"].encode()} if own else {}
    index.with_name(index.name + ".expected").write_text(expectation(tensors, names, **texts))


def write_good(directory):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([layers.Input((3,)), layers.Dense(4), layers.Dropout(0.5), layers.Dense(2)])
    model.compile("sgd", "mse")
    model.optimizer.build(model.trainable_variables)
    for name, most in [("keras-3-15-one", 2**30), ("keras-3-15-many", 72)]:
        path = directory / f"{name}.weights.json"
        model.save_weights(path, max_shard_size=most / 2**30)
        expect(path)

    rng = np.random.default_rng(0)
    tensors = {f"layers/dense/vars/{i}": rng.standard_normal(shape).astype("float32") for i, shape in
               enumerate([(5, 4), (4,), (0, 7), ()])}
    tensors |= {"flags": rng.integers(0, 2, 9).astype(bool), "größe ✓/vars/0": np.arange(6.0).reshape(2, 3).T}
    names = {"layers/dense": "dense", "layers/flatten": "no tensor", "": "root", "größe ✓": "größe ✓"}
    lib = Lib()
    for name, most in [("libckpt-0-1-one", 2**30), ("libckpt-0-1-many", 48)]:
        path = directory / f"{name}.weights.json"
        session = lib.session(str(path), save_weights_only=True, max_shard_bytes=ctypes.c_uint64(most), on_nan=ON_NAN_KERAS)
        lib.epoch_end(session, 6, loss=0.25, val_loss=float("nan"))
        lib("ckpt_save", session, lib.model(tensors, names))
        lib.c.ckpt_free(session)
        expect(path)


def write_bad(directory):
    lines = []

    def index(name, why, weight_map=None, text=None, metadata=None):
        path = directory / f"{name}.weights.json"
        path.write_text(text or json.dumps({"metadata": metadata or {}, "weight_map": weight_map}))
        lines.append(f"{path.name} CKPT_E_FORMAT {why}\n")
        return path

    def shard(name, number=0):
        return h5py.File(directory / f"{name}_{number:05}.weights.h5", "w")

    def group(name, number=0):
        return {"/a/vars": [f"{name}_{number:05}.weights.h5"]}

    index("missing-shard", "a shard is not there", group("missing-shard"))
    index("above", "a shard is in the directory above", {"/a/vars": ["../good/keras-3-15-one_00000.weights.h5"]})
    index("absolute", "a shard is anywhere", {"/a/vars": ["/dev/zero.h5"]})
    index("itself", "it is its own shard", {"/a/vars": ["itself.weights.json"]})
    index("other-format", "its files are of no format", {"/a/vars": ["other-format_00000.npz"]})
    index("no-name", "a shard has a number for a name", {"/a/vars": [7]})
    index("no-shard", "a group is in no shard", {"/a/vars": []})
    index("key-twice", "a group stands in it twice, in different shards",
          text='{"weight_map": {"/a/vars": ["key-twice_0.h5"], "/a/vars": ["key-twice_1.h5"]}}')
    index("deep", "it is nested 10,000 levels deep", text='{"weight_map": {}, "metadata": ' + "[" * 10000 + "]" * 10000 + "}")
    index("cut-off", "it is cut off", text='{"weight_map": {"/a/vars": ["m_00000.weights.h5"]')
    index("state", "the training state does not match its checksum", {},
          metadata={"libckpt": {"state": '{"save": 1}', "crc32": 1}})

    index("torn", "a shard is of another checkpoint: it holds no variable of the group", group("torn"))
    with shard("torn") as f:
        f["b/vars/0"] = np.zeros(2)
    index("tensor-twice", "a variable is in two shards",
          {"/a/vars": [f"tensor-twice_{number:05}.weights.h5" for number in range(2)]})
    for number in range(2):
        with shard("tensor-twice", number) as f:
            f["a/vars/0"] = np.full(2, number)
    index("soft-link", "a variable is a soft link to one that the index does not name", group("soft-link"))
    with shard("soft-link") as f:
        f["b/vars/0"] = np.zeros(2)
        f["a/vars/0"] = h5py.SoftLink("/b/vars/0")
    index("external-link", "a variable is a link into another file", group("external-link"))
    with shard("external-link") as f:
        f["a/vars/0"] = h5py.ExternalLink("torn_00000.weights.h5", "/b/vars/0")
    index("external-data", "the bytes of a variable are in another file", group("external-data"))
    with shard("external-data") as f:
        f.create_dataset("a/vars/0", (2,), "uint8", external=[("/etc/passwd", 0, 2)])
    index("not-hdf5", "a shard is not an HDF5 file", group("not-hdf5"))
    (directory / "not-hdf5_00000.weights.h5").write_bytes(b"PK\5\6" + bytes(18))

    good = directory / "flipped-bit.weights.json"
    Lib().save(good, {"a/vars/0": np.arange(4, dtype="float32")})
    (part,) = (path for path in directory.glob("flipped-bit_*") if path.name != "flipped-bit_00000.weights.h5")
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    lines.append(f"{good.name} CKPT_E_FORMAT a bit of a variable is flipped\n")
    (directory / "bad.txt").write_text("".join(sorted(lines)))


if __name__ == "__main__":
    for kind, write in [("good", write_good), ("bad", write_bad)]:
        folder = pathlib.Path(sys.argv[1]) / "weights-json" / kind
        folder.mkdir(parents=True)
        write(folder)
