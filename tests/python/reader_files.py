"""Writes files as h5py, Keras and zipfile write them, for tests/reader_python.rs.

    reader_files.py DIRECTORY

Puts a manifest.json beside them: for each file either the tensors that a reader must list, in its order, with the
CRC-32 of their bytes, or the status that it must refuse the file with.
"""

import json
import os
import shutil
import struct
import sys
import warnings
import zipfile
import zlib

os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND", "numpy")

import h5py
import numpy as np

from hdf5_cases import CASES, LIBVERS, NUMBERS, creation, put_bfloat16, unread, values

CODES = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]

manifest = []


def describe(path, dataset):
    """A tensor's line in the manifest, or None where it is no tensor."""
    data = dataset[()]
    if isinstance(data, h5py.Empty) or dataset.dtype.kind in "SOc" or dataset.dtype.names:
        return None
    data = np.asarray(data)
    enumeration = h5py.check_enum_dtype(dataset.dtype)
    if enumeration is not None:
        if enumeration != {"FALSE": 0, "TRUE": 1}:
            return None
        data = data.astype("bool")
    if data.dtype.kind == "V":
        if data.dtype.itemsize != 2 or dataset.attrs.get("dtype") != "bfloat16":
            return None
        name = "bfloat16"
    else:
        name = data.dtype.newbyteorder("=").name
        data = data.astype(data.dtype.newbyteorder("<"))
        if name not in CODES:
            return None
    raw = np.ascontiguousarray(data).tobytes()
    return {"path": path, "dtype": name, "shape": list(dataset.shape), "nbytes": len(raw), "crc": zlib.crc32(raw)}


def tensors(group, prefix=""):
    """The tensors below a group in the reader's order: names sorted as bytes, groups in their place."""
    found = []
    for name in sorted(group.keys(), key=lambda n: n.encode()):
        path = prefix + name
        node = group[name]
        if isinstance(node, h5py.Group):
            if path != "libckpt":
                found += tensors(node, path + "/")
        elif isinstance(node, h5py.Dataset):
            line = describe(path, node)
            found += [line] if line else []
    return found


def names(f):
    """Keras' names of groups: the attribute of their vars."""
    found = {}

    def note(path, node):
        if path.split("/")[-1] == "vars" and isinstance(node, h5py.Group) and "name" in node.attrs:
            found[path.removesuffix("vars").removesuffix("/")] = node.attrs["name"]

    f.visititems(note)
    return found


def good(name, **more):
    """Notes a file that must be read, with what h5py reads from it."""
    path = os.path.join(out, name)
    with open(path, "rb") as raw:
        is_zip = raw.read(2) == b"PK"
    if is_zip:
        with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as member:
            with h5py.File(member, "r") as f:
                lines, called = tensors(f), names(f)
            if "config_status" not in more:
                more["config"] = archive.read("config.json").decode() if "config.json" in archive.namelist() else None
    else:
        with h5py.File(path, "r") as f:
            lines, called = tensors(f), names(f)
    manifest.append({"file": name, "tensors": lines, "names": called, **more})


def bad(name, status, says):
    manifest.append({"file": name, "status": status, "says": says})


def create(name, **options):
    return h5py.File(os.path.join(out, name), "w", **options)


def fill(f):
    """Every dtype, scalars, nothing, many axes, names of any kind."""
    for dtype in NUMBERS:
        f.create_dataset(f"layers/{dtype}/vars/0", data=values(dtype, (5, 3)))
        f.create_dataset(f"layers/{dtype}/vars/1", data=values(dtype, ()))
        f.create_dataset(f"layers/{dtype}/vars/2", data=values(dtype, (4, 0, 2)))
    put_bfloat16(f.require_group("layers/bfloat16/vars"), "0", (3, 7))
    put_bfloat16(f.require_group("layers/bfloat16/vars"), "1", ())
    f.create_dataset("deep", data=values("float32", (1,) * 30 + (2, 3)))
    f.create_dataset("größe/層/🧪", data=values("float32", (2, 2)))
    f.create_dataset("a.b", data=values("int8", (1,)))
    f.create_dataset("a/b", data=values("int8", (2,)))
    f.create_dataset("a b/.hidden", data=values("int8", (3,)))
    f.require_group("layers/flatten/vars").attrs["name"] = "flatten"
    f.create_dataset("text", data="no tensor")
    f.create_dataset("nothing", data=h5py.Empty("f4"))
    f.create_dataset("complex", data=np.array([1 + 2j]))
    f["committed"] = np.dtype("f4")


def put_compact(f, name, data):
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(data.shape)
    dataset = h5py.h5d.create(f.id, name.encode(), h5py.h5t.py_create(data.dtype), space, plist)
    dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)


def common():
    for libver in ["earliest", "v108", "v110", "latest"]:
        with create(f"small-{libver}.h5", libver=(libver, "latest")) as f:
            fill(f)
        good(f"small-{libver}.h5")
        with create(f"common-{libver}.h5", libver=(libver, "latest")) as f:
            fill(f)
            f.create_dataset("large", data=values("float32", (700, 1001)))
        good(f"common-{libver}.h5")
        with create(f"order-{libver}.h5", libver=(libver, "latest"), track_order=True) as f:
            for name in ["z", "a", "m"]:
                f.create_dataset(name, data=values("float32", (3,)))
        good(f"order-{libver}.h5")
        with create(f"compact-{libver}.h5", libver=(libver, "latest")) as f:
            put_compact(f, "small", values("float64", (10,)))
            put_compact(f, "square", values("int16", (100, 100)))
        good(f"compact-{libver}.h5")

    with create("userblock.h5", userblock_size=2048) as f:
        fill(f)
    good("userblock.h5")
    with create("empty.h5"):
        pass
    good("empty.h5")
    with create("unwritten.h5") as f:
        f.create_dataset("zeros", (10, 10), "float32")
        f.create_dataset("sevens", (10,), "int32", fillvalue=7)
    good("unwritten.h5")
    with create("hardlink.h5") as f:
        f["a"] = values("float32", (5,))
        f["b"] = f["a"]
    good("hardlink.h5")
    shutil.copy(os.path.join(out, "common-earliest.h5"), os.path.join(out, "trailing.h5"))
    with open(os.path.join(out, "trailing.h5"), "ab") as raw:
        raw.write(b"x" * 1000)
    good("trailing.h5")


def storage():
    """Every way to store a dataset or a group, in the formats of several releases."""
    for libver, bounds in LIBVERS.items():
        for case, fill_in in CASES.items():
            with create(f"{case}-{libver}.h5", libver=bounds) as f:
                fill_in(f)
            good(f"{case}-{libver}.h5")
    with create("unread.h5") as f:
        unread(f)
    good("unread.h5", refuses={name: name for name in ["scaleoffset", "nbit", "szip"]})


def large():
    """A group with very many children. Described from what was written: h5py takes half a minute to read it."""
    lines = []
    with create("children.h5") as f:
        group = f.create_group("vars")
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        space = h5py.h5s.create_simple((2,))
        for i in range(100_000):
            dataset = h5py.h5d.create(group.id, str(i).encode(), h5py.h5t.STD_I32LE, space, plist)
            data = np.array([i, -i], "int32")
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, data)
            crc = zlib.crc32(data.tobytes())
            lines.append({"path": f"vars/{i}", "dtype": "int32", "shape": [2], "nbytes": 8, "crc": crc})
    lines.sort(key=lambda line: line["path"])
    manifest.append({"file": "children.h5", "tensors": lines})


def edited():
    for libver in ["earliest", "latest"]:
        name = f"edited-{libver}.h5"
        with create(name, libver=(libver, "latest")) as f:
            for i in range(60):
                f.create_dataset(f"g/{i}", data=values("float32", (i + 1,)))
        with h5py.File(os.path.join(out, name), "r+", libver=(libver, "latest")) as f:
            for i in range(0, 60, 3):
                del f[f"g/{i}"]
            for i in range(1, 60, 3):
                for k in range(12):
                    f[f"g/{i}"].attrs[f"attribute {k}"] = "x" * (50 * k)
        with h5py.File(os.path.join(out, name), "r+", libver=(libver, "latest")) as f:
            for i in range(1, 60, 3):
                for k in range(0, 12, 2):
                    del f[f"g/{i}"].attrs[f"attribute {k}"]
            for i in range(30):
                f.create_dataset(f"g/new {i}", data=values("int16", (i,)))
            f.move("g/1", "g/a longer name than before")
            f["g/2"][...] = 5
        good(name)


def refused():
    with create("soft.h5") as f:
        f["a"] = values("float32", (5,))
        f["b"] = h5py.SoftLink("/a")
    bad("soft.h5", "Format", "soft link")
    with create("external-link.h5") as f:
        f["b"] = h5py.ExternalLink("common-earliest.h5", "/large")
    bad("external-link.h5", "Format", "external")
    with create("soft-dense.h5", libver="latest") as f:
        for i in range(20):
            f[f"a{i}"] = values("float32", (5,))
        f["b"] = h5py.SoftLink("/a1")
    bad("soft-dense.h5", "Format", "soft link")
    with create("external-data.h5") as f:
        f.create_dataset("x", (10,), "float32", external=[("/etc/passwd", 0, 40)])
    bad("external-data.h5", "Format", "external files")
    for libver in ["earliest", "latest"]:
        with create(f"virtual-{libver}.h5", libver=(libver, "latest")) as f:
            layout = h5py.VirtualLayout((10,), "float32")
            layout[:] = h5py.VirtualSource("common-earliest.h5", "x", (10,))
            f.create_virtual_dataset("v", layout)
        bad(f"virtual-{libver}.h5", "Format", "virtual")
    with create("loop.h5") as f:
        f.create_group("a/b")
        f["a/b/c"] = f["a"]
    bad("loop.h5", "Format", "linked to from another place")
    with create("bomb.h5") as f:
        f.create_dataset("x", (1 << 40,), "float32", chunks=(1 << 20,))
    bad("bomb.h5", "Format", "claims more")
    whole = open(os.path.join(out, "common-earliest.h5"), "rb").read()
    for name, content, says in [
        ("nothing", b"", "empty"),
        ("noise", os.urandom(5000), "neither"),
        ("cut.h5", whole[:-1], "cut off"),
        ("cut-early.h5", whole[:1000], "cut off"),
        ("cut.keras", b"PK\x03\x04" + whole, "archive"),
    ]:
        with open(os.path.join(out, name), "wb") as f:
            f.write(content)
        bad(name, "Format", says)


def archive(name, members, weights="common-earliest.h5"):
    with zipfile.ZipFile(os.path.join(out, name), "w") as f:
        for member, content in members:
            method = zipfile.ZIP_STORED
            if isinstance(content, tuple):
                content, method = content[0], zipfile.ZIP_DEFLATED
            if content is None:
                content = open(os.path.join(out, weights), "rb").read()
            info = zipfile.ZipInfo(member)
            info.compress_type = method
            with f.open(info, "w", force_zip64=name.startswith("zip64")) as out_member:
                out_member.write(content)


def archives():
    config = json.dumps({"class_name": "Sequential", "größe": 1}, ensure_ascii=False).encode()
    plain = [("metadata.json", b"{}"), ("config.json", config), ("model.weights.h5", None)]
    archive("plain.keras", plain)
    good("plain.keras")
    archive("chunked.keras", plain, "chunked-default.h5")
    good("chunked.keras")
    archive("zip64.keras", plain)
    good("zip64.keras")
    archive("reordered-keras-by-content", [plain[2], plain[1], ("assets/vocabulary.txt", b"a\nb\n")])
    good("reordered-keras-by-content")
    weights = open(os.path.join(out, "common-earliest.h5"), "rb").read()
    archive("deflated.keras", plain[:2] + [("model.weights.h5", (weights,))])
    bad("deflated.keras", "Unsupported", "compressed")
    archive("deflated-config.keras", [("config.json", (config,)), plain[2]])
    good("deflated-config.keras")
    archive("no-weights.keras", plain[:2])
    bad("no-weights.keras", "Format", "model.weights.h5")
    archive("not-hdf5.keras", [("model.weights.h5", b"hello" * 100)])
    bad("not-hdf5.keras", "Format", "not an HDF5 file")
    with zipfile.ZipFile(os.path.join(out, "twice.keras"), "w") as f:
        with warnings.catch_warnings(action="ignore"):
            for _ in range(2):
                f.writestr("model.weights.h5", weights)
    bad("twice.keras", "Format", "twice")
    archive("wrong-config.keras", plain)
    path = os.path.join(out, "wrong-config.keras")
    raw = open(path, "rb").read()
    open(path, "wb").write(raw.replace(b"Sequential", b"sequential"))
    good("wrong-config.keras", config_status="Format", verify="config.json")


def fnv(path):
    h = 0xCBF29CE484222325
    for b in path.encode():
        h = (h ^ b) * 0x100000001B3 % 2**64
    return h


def checksum(path, dtype, shape, raw):
    head = path.encode() + bytes([0, CODES.index(dtype), len(shape)]) + b"".join(struct.pack("<Q", d) for d in shape)
    return zlib.crc32(raw, zlib.crc32(head))


def put_own(f, state):
    """/libckpt, as this library writes it."""
    padded = state.encode().ljust(4096)
    rows = [(fnv(t["path"]), checksum(t["path"], t["dtype"], t["shape"], raw_of(f[t["path"]]))) for t in tensors(f)]
    rows.append((fnv("libckpt/state"), checksum("libckpt/state", "uint8", [4096], padded)))
    f.create_dataset("libckpt/state", data=np.frombuffer(padded, "uint8"))
    f.create_dataset("libckpt/checksums", data=np.array(sorted(rows), "uint64"))


def raw_of(dataset):
    return np.ascontiguousarray(dataset[()]).tobytes()


def own():
    state = '{"epoch": 3, "best": 0.25}'
    for name in ["own.h5", "own-changed.h5", "own-large-changed.h5", "own-edited.h5", "own-state.h5"]:
        with create(name) as f:
            for dtype in NUMBERS:
                f.create_dataset(f"layers/{dtype}/vars/0", data=values(dtype, (5, 3)))
                f.create_dataset(f"layers/{dtype}/vars/1", data=values(dtype, ()))
            put_bfloat16(f.require_group("layers/bfloat16/vars"), "0", (3, 7))
            f.create_dataset("layers/empty", data=values("float32", (0, 3)))
            f.create_dataset("large", data=values("float32", (3000, 1001)))
            put_own(f, state)
    good("own.h5", state=state)
    with h5py.File(os.path.join(out, "own-changed.h5"), "r+") as f:
        f["layers/int32/vars/0"][1, 1] ^= 4
        f["layers/uint8/vars/1"][()] ^= 1
    good("own-changed.h5", state=state, changed=["layers/int32/vars/0", "layers/uint8/vars/1"])
    with h5py.File(os.path.join(out, "own-large-changed.h5"), "r+") as f:
        f["large"][2500, 3] = 1e30
    good("own-large-changed.h5", state=state, changed=["large"])
    with h5py.File(os.path.join(out, "own-edited.h5"), "r+") as f:
        del f["layers/float16"]
        f["added"] = values("float32", (3,))
    good("own-edited.h5", state=state)
    with h5py.File(os.path.join(out, "own-state.h5"), "r+") as f:
        f["libckpt/state"][5] += 1
    good("own-state.h5", state_status="Format")
    archive("own.keras", [("model.weights.h5", None), ("config.json", b"{}"), ("metadata.json", b"{}")], "own.h5")
    good("own.keras", state=state)


def keras_models():
    import keras
    from keras import layers

    def build(inputs, *stack):
        model = keras.Sequential([keras.Input(inputs), *stack])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    models = {
        "dense": build((8,), layers.Dense(16), layers.Dropout(0.1), layers.Dense(3)),
        "conv": build((8, 8, 3), layers.Conv2D(4, 3), layers.BatchNormalization(), layers.Flatten(), layers.Dense(2)),
        "rnn": build((5,), layers.Embedding(20, 8), layers.Bidirectional(layers.LSTM(6)), layers.Dense(1)),
        "bf16": build((4,), layers.Dense(5, dtype="bfloat16"), layers.Dense(5, dtype="mixed_float16")),
    }
    for name, model in models.items():
        model.save(os.path.join(out, f"keras-{name}.keras"))
        good(f"keras-{name}.keras")
        model.save_weights(os.path.join(out, f"keras-{name}.weights.h5"))
        good(f"keras-{name}.weights.h5")


if __name__ == "__main__":
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)
    for step in [common, storage, large, edited, refused, archives, own, keras_models]:
        step()
    with open(os.path.join(out, "manifest.json"), "w") as f:
        json.dump(manifest, f)
