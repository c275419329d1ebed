"""Writes the bad golden files of the formats .weights.h5, .keras and legacy .h5: tests/golden/*/bad, with their lists.

    golden_hostile.py DIRECTORY

Each is a small sound file of h5py's, or an archive of zipfile's, in which one thing is wrong.
"""

import io
import os
import struct
import sys
import warnings
import zipfile

import h5py
import numpy as np

lists = {}


def bad(folder, name, content, status, why):
    path = os.path.join(out, folder, "bad", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(content)
    lists.setdefault(folder, []).append((name, status, why))


def file(fill, **options):
    raw = io.BytesIO()
    with h5py.File(raw, "w", **options) as f:
        fill(f)
    return raw.getvalue()


def two(f):
    f["a"] = np.arange(3, dtype="float32") + 1
    f["b"] = np.arange(3, dtype="float32") + 11


def put(content, at, *numbers):
    return content[:at] + struct.pack(f"<{len(numbers)}Q", *numbers) + content[at + 8 * len(numbers) :]


def of(content, number, count=1):
    """Where the only places are that hold this number."""
    found = [i for i in range(len(content) - 7) if content[i : i + 8] == struct.pack("<Q", number)]
    assert len(found) == count, (number, found)
    return found[0]


def address(content, values):
    return content.index(np.array(values, "float32").tobytes())


def weights():
    def h5(name, content, why, status="CKPT_E_FORMAT"):
        bad("weights-h5", name + ".weights.h5", content, status, why)

    good = file(two)
    first, second = address(good, [1, 2, 3]), address(good, [11, 12, 13])
    layout = of(good, first)
    h5("cut-off", good[:-1], "the last byte is missing")
    h5("not-hdf5", b"these are no weights\n", "it is of no format")
    h5("end-beyond", put(good, 40, 1 << 40), "its superblock says that it has 2^40 bytes")
    h5("root-beyond", put(good, 64, 1 << 40), "its root group is behind its end")
    h5("root-nowhere", put(good, 64, 0), "where its root group should be is something else")
    h5("driver", put(good, 48, 96), "it is one of several files", "CKPT_E_UNSUPPORTED")
    h5("version-9", good[:8] + b"\x09" + good[9:], "its superblock is of a version that nobody knows", "CKPT_E_UNSUPPORTED")
    h5("addresses-of-4", good[:13] + b"\x04" + good[14:], "its addresses have 4 bytes", "CKPT_E_UNSUPPORTED")
    h5("data-beyond", put(good, layout, 1 << 40), "the bytes of a dataset are behind its end")
    h5("data-shared", put(good, layout, second), "two datasets share bytes")
    h5("data-shorter", put(good, layout + 8, 8), "a dataset has fewer bytes than its shape needs")
    shape = good.index(struct.pack("<QQ", 3, 3))
    h5("shape-bomb", put(good, shape, 1 << 62, 1 << 62), "a dataset has 2^62 elements of 4 bytes")
    tree = good.index(b"TREE")
    h5("tree-loop", put(good, tree + 32, tree), "a node of a B-tree is its own child")
    h5("tree-level", good[: tree + 5] + b"\xff" + good[tree + 6 :], "a B-tree of one node claims 255 levels")
    h5("tree-count", good[: tree + 6] + b"\xff\xff" + good[tree + 8 :], "a node of a B-tree claims 65,535 children")
    heap = good.index(b"HEAP")
    h5("heap-size", put(good, heap + 8, 1 << 60), "a heap of names claims 2^60 bytes")
    names = struct.unpack_from("<Q", good, heap + 24)[0]
    h5("name-empty", good[: names + 8] + b"\0" + good[names + 9 :], "a link has no name")
    h5("name-slash", good[: names + 8] + b"/" + good[names + 9 :], "the name of a link is '/'")
    node = good.index(b"SNOD")
    h5("name-twice", put(good, node + 48, struct.unpack_from("<Q", good, node + 8)[0]), "two links have the same name")
    h5("headers-loop", loop(), "an object header is its own continuation")

    def linked(link):
        def fill(f):
            f["a"] = np.arange(3, dtype="float32")
            f["b"] = link

        return file(fill)

    h5("soft-link", linked(h5py.SoftLink("/a")), "a link is a soft one")
    h5("external-link", linked(h5py.ExternalLink("other.h5", "/x")), "a link leads into another file")

    def circle(f):
        f.create_group("a/b")
        f["a/b/c"] = f["a"]

    h5("group-loop", file(circle), "a group is in itself")

    def external(f):
        f.create_dataset("a", (10,), "float32", external=[("/etc/passwd", 0, 40)])

    h5("external-data", file(external), "the bytes of a dataset are in /etc/passwd")

    def virtual(f):
        layout = h5py.VirtualLayout((10,), "float32")
        layout[:] = h5py.VirtualSource("other.h5", "x", (10,))
        f.create_virtual_dataset("a", layout)

    h5("virtual", file(virtual, libver="latest"), "a dataset is a view of one in another file")
    h5("chunk-bomb", file(lambda f: f.create_dataset("a", (1 << 40,), "float32", chunks=(1 << 20,))), "a dataset of 2^42 bytes has no chunk")
    packed = file(lambda f: f.create_dataset("a", data=np.arange(999, dtype="int32"), chunks=(999,), compression="gzip"))
    begin = packed.index(b"\x78\x5e")
    h5("chunk-damaged", packed[: begin + 20] + b"\xff" * 20 + packed[begin + 40 :], "a compressed chunk is damaged")


def loop():
    """A root group whose header goes on in itself."""
    message = struct.pack("<HHIQQ", 0x10, 16, 0, 112, 24)
    header = struct.pack("<BBHIII", 1, 0, 1, 1, len(message), 0) + message
    block = b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08\0\x04\0\x10\0\0\0\0\0"
    block += struct.pack("<8Q", 0, 2**64 - 1, 96 + len(header), 2**64 - 1, 0, 96, 0, 0) + bytes(8)
    assert len(block) == 96
    return block + header


def archives():
    def keras(name, content, why, status="CKPT_E_FORMAT"):
        bad("keras", name + ".keras", content, status, why)

    inner = file(lambda f: f.create_dataset("a", data=np.arange(3, dtype="float32")))
    config = b'{"module": "keras", "class_name": "Sequential", "config": {}}'
    plain = [("metadata.json", b'{"keras_version": "3.15.1"}', 0), ("config.json", config, 0), ("model.weights.h5", inner, 0)]

    def pack(members):
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w") as f, warnings.catch_warnings(action="ignore"):
            for name, content, method in members:
                info = zipfile.ZipInfo(name)
                info.compress_type = method
                f.writestr(info, content)
        return raw.getvalue()

    good = pack(plain)
    entries = [i for i in range(len(good)) if good[i : i + 4] == b"PK\x01\x02"]
    local = [struct.unpack_from("<I", good, at + 42)[0] for at in entries]
    end = good.rindex(b"PK\x05\x06")

    def change(at, new, content=good):
        return content[:at] + new + content[at + len(new) :]

    short, long = (lambda n: struct.pack("<H", n)), (lambda n: struct.pack("<I", n))
    keras("cut-off", good[:-1], "the last byte is missing")
    keras("no-weights", pack(plain[:2]), "it has no weights")
    keras("not-hdf5", pack([plain[0], ("model.weights.h5", b"hello" * 100, 0)]), "its weights are no HDF5 file")
    keras("weights-cut", pack([("model.weights.h5", inner[:-1], 0)]), "its weights end before they should")
    keras("weights-deflated", pack([("model.weights.h5", inner, 8)]), "its weights are compressed", "CKPT_E_UNSUPPORTED")
    keras("encrypted", change(local[2] + 6, short(1), change(entries[2] + 8, short(1))), "its weights are encrypted", "CKPT_E_UNSUPPORTED")
    keras("method-99", change(local[1] + 8, short(99), change(entries[1] + 10, short(99))), "its configuration is compressed in an unknown way", "CKPT_E_UNSUPPORTED")
    keras("twice", pack([plain[2], plain[1], plain[1]]), "a member stands in it twice")
    keras("overlap", change(entries[1] + 42, long(local[0])), "two members begin at the same place")
    keras("size-too-large", change(entries[0] + 20, long(90) * 2), "a member reaches into the next one")
    keras("header-elsewhere", change(entries[2] + 42, long(1 << 30)), "the weights are behind its end")
    keras("header-other-name", change(local[1] + 30, b"metadat"), "the header before a member has another name")
    keras("header-other-size", change(local[1] + 18, long(5)), "the header before a member has another size")
    keras("name-above", pack([*plain, ("../outside", b"", 0)]), "a member would be unpacked into the directory above")
    keras("name-absolute", pack([*plain, ("/etc/outside", b"", 0)]), "a member would be unpacked anywhere")
    keras("config-changed", good.replace(b"Sequential", b"sequential"), "the configuration does not match its checksum")
    keras("config-bomb", pack([plain[2], ("config.json", b" " * (20 << 20), 8)]), "the configuration unpacks to 20 MiB")
    keras("count", change(end + 8, short(9) * 2), "the directory has fewer members than it says")
    keras("disks", change(end + 4, short(1) * 2), "it is one part of several", "CKPT_E_UNSUPPORTED")
    keras("directory-gap", change(end, b"\0" * 8 + good[end:]), "something is between the directory and the end")
    keras("two-ends", change(end + 20, short(22) + pack([])), "its comment is the end of another archive")
    keras("zip64-missing", change(end + 16, b"\xff" * 4), "it has no Zip64 directory, and says so")


def legacy():
    def h5(name, content, why, status="CKPT_E_FORMAT"):
        bad("legacy", name + ".h5", content, status, why)

    def model(layers, weights=("kernel",)):
        def fill(f):
            f.attrs["model_config"] = '{"class_name": "Sequential", "config": {"name": "s", "layers": []}}'
            group = f.create_group("model_weights")
            group.attrs["layer_names"] = layers
            group["one/kernel"] = np.arange(3, dtype="float32")
            group["one"].attrs["weight_names"] = weights

        return fill

    good = file(model(np.array([b"one"])))
    names = good.index(b"layer_names\0") + len(b"layer_names\0".ljust(16, b"\0"))  # the datatype, then the dataspace
    h5("layer-missing", file(model(np.array([b"two"]))), "it lists a layer of which there is no group")
    h5("layer-not-utf8", file(model(np.array([b"\xff\xfe\xfd"]))), "the name of a layer is not UTF-8")
    h5("layers-2-40", put(good, names + 16, 1 << 40), "its list of layers claims 2^40 of them")
    heap = file(model(["one"], ["kernel"]))
    at = heap.index(struct.pack("<I", 3), heap.index(b"layer_names\0") + 32) + 4
    h5("layers-beyond", put(heap, at, 1 << 40), "the name of a layer is behind its end")


if __name__ == "__main__":
    out = sys.argv[1]
    weights()
    archives()
    legacy()
    for folder, lines in lists.items():
        width = max(len(name) for name, _, _ in lines)
        with open(os.path.join(out, folder, "bad", "bad.txt"), "w") as f:
            for name, status, why in sorted(lines):
                f.write(f"{name:{width}} {status} {why}\n")
