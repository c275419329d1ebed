"""Makes the golden files of .safetensors, with their expectations (tests/golden/README.md).

    golden_safetensors.py DIRECTORY

An expectation is what the `safetensors` package reads from a file.
"""
import ctypes
import json
import pathlib
import struct
import sys

import numpy as np
from safetensors.numpy import save_file

from capi import ON_NAN_KERAS, Lib
from golden import OURS, everything, expectation
from test_safetensors import header, tensors_of

THEIRS = "safetensors-0.8"


def compact(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def expect(path, tensors=None, metadata=None):
    """Puts its expectation beside a file."""
    strings = {} if metadata else dict(header(path)[0].get("__metadata__") or {})
    own = {key: strings.pop(f"libckpt.{key}") for key in ("state", "config", "names", "checksums", "guard") if f"libckpt.{key}" in strings}
    texts = {key: own[key].rstrip(" ").encode() for key in ("state", "config") if key in own}
    if strings or metadata:
        texts["metadata"] = metadata or compact(strings)
    lines = expectation(tensors or tensors_of(path), json.loads(own.get("names", "{}")), **texts)
    path.with_name(path.name + ".expected").write_text(lines)


def write_ours(folder):
    lib = Lib()
    tensors, names = everything()
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "é \"quoted\"", "layers": []}})
    model = lib.model(tensors, names, config, metadata={"format": "pt", "größe": "\"✓\"\n"})
    path = folder / f"{OURS}-everything.safetensors"
    session = lib.session(str(path), save_weights_only=ctypes.c_bool(True), on_nan=ON_NAN_KERAS)
    lib.epoch_end(session, 6, loss=0.25, val_loss=float("nan"))
    lib("ckpt_save", session, model)
    lib.c.ckpt_free(session)
    lib.c.ckpt_model_free(model)
    lib.save(folder / f"{OURS}-empty.safetensors", {})
    for path in folder.glob(f"{OURS}-*.safetensors"):
        expect(path)


def write_theirs(folder):
    tensors = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in everything()[0].items()}
    path = folder / f"{THEIRS}-everything.safetensors"
    save_file(tensors, path, {"format": "np", "größe": "\"✓\"\n"})
    expect(path)
    path = folder / f"{THEIRS}-complex.safetensors"
    save_file({"a": np.arange(3, dtype="complex64"), "b": np.arange(3, dtype="int8")}, path)
    expect(path)
    parts = {f"hub-sharded-0000{i}-of-00002.safetensors": {f"model.layers.{i}.weight": np.arange(6.0).reshape(2, 3) + i,
                                                            f"model.layers.{i}.bias": np.arange(3, dtype="float16")}
             for i in (1, 2)}
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    index = {"metadata": {"total_size": 108}, "weight_map": {key: name for name, part in parts.items() for key in part}}
    path = folder / "hub-sharded.safetensors.index.json"
    path.write_text(json.dumps(index, indent=2) + "\n")
    metadata = json.dumps(index["metadata"], indent=2).replace("\n", "\n  ").encode()
    expect(path, {key: a for part in parts.values() for key, a in part.items()}, metadata)


def file(text, data=b"", length=None):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(name="x", dtype="U8", shape="[4]", begin=0, end=4, more=""):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]{more}}}'


def one(*args, data=b"\0\1\2\3", **kwargs):
    return file(f"{{{entry(*args, **kwargs)}}}", data)


def two(a, b):
    return file(f'{{{entry("a", begin=a[0], end=a[1])},{entry("b", begin=b[0], end=b[1])}}}', bytes(8))


def write_by_hand(folder):
    """What no program writes so far, and every one may."""
    text = ('{ "y":{"shape":[ ],"more":[[{"deep":null}]],"data_offsets":[4,8],"dtype":"F32"} ,"__metadata__":null,'
            '"\\u0078":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}\n \t')
    (folder / "hand-spelt.safetensors").write_bytes(file(text, b"\0\1\2\3\0\0\x80\x3f"))
    expect(folder / "hand-spelt.safetensors",
           {"x": np.arange(4, dtype="uint8"), "y": np.ones((), "float32")})


BAD = {
    "length-beyond-the-end": (file("{}", length=3), "its header is longer than the file"),
    "length-of-2-63": (file("{}", length=1 << 63), "its header has 2^63 bytes"),
    "length-of-2-64": (file("{}", length=(1 << 64) - 1), "its header has 2^64 - 1 bytes: with the 8 before it, 7"),
    "length-too-short": (file("{}", length=1), "its header ends before its JSON does"),
    "header-not-utf8": (file(b'{"__metadata__":{"\xff":""}}'), "its header is not UTF-8"),
    "header-not-json": (file("{'x': 1}"), "its header is not JSON"),
    "header-too-deep": (file('{"x":' + "[" * 10_000 + "]" * 10_000 + "}"), "its header is nested 10,000 levels deep"),
    "name-twice": (file(f"{{{entry()},{entry()}}}", bytes(4)), "a name stands in it twice, with the same bytes"),
    "name-twice-escaped": (file(f'{{{entry()},{entry(chr(92) + "u0078", begin=4, end=8)}}}', bytes(8)),
                           "a name stands in it twice, spelt in two ways"),
    "name-empty": (one(""), "a name is empty"),
    "name-nul": (one("a\\u0000b"), "a name has a NUL"),
    "key-twice": (one(more=',"dtype":"U8"'), "an entry has two dtypes"),
    "dtype-missing": (file('{"x":{"shape":[4],"data_offsets":[0,4]}}', bytes(4)), "an entry has no dtype"),
    "shape-negative": (one(shape="[-4]"), "a size is negative"),
    "shape-bomb": (one(shape="[4294967296,4294967296,4294967296]"), "the product of the sizes overflows"),
    "shape-other-size": (one(shape="[5]"), "the elements have other bytes than the data_offsets"),
    "rank-33": (one(shape="[" + ",".join("1" * 33) + "]", end=1, data=b"x"), "a tensor has 33 axes"),
    "offsets-backwards": (one(shape="[0]", begin=4, end=0), "a tensor ends before it begins"),
    "offsets-beyond-the-end": (one(shape="[5]", end=5), "a tensor ends behind the data"),
    "offsets-overlap": (two((0, 4), (2, 6)), "two tensors share bytes"),
    "offsets-same": (two((0, 4), (0, 4)), "two tensors have the same bytes"),
    "offsets-hole": (two((0, 4), (5, 9)), "a byte is in no tensor"),
    "data-left-over": (one(data=bytes(5)), "the last byte is in no tensor"),
    "data-cut-off": (one(data=bytes(3)), "the last byte is missing"),
    "metadata-not-strings": (file('{"__metadata__":{"x":1}}'), "a value of the metadata is a number"),
    "checksums-not-hexadecimal": (file('{"__metadata__":{"libckpt.checksums":"xyz"}}'), "our checksums are no digits"),
}

BAD_INDEXES = {
    "elsewhere": ({"x": "../good/libckpt-0.1-empty.safetensors"}, "it names a file in another directory"),
    "absolute": ({"x": "/etc/passwd.safetensors"}, "it names a file by its whole path"),
    "missing": ({"x": "index-missing-1.safetensors"}, "it names a file that is not there"),
    "two-files": ({"x": ["data-cut-off.safetensors", "data-left-over.safetensors"]}, "it has a tensor in two files"),
    "other-tensor": ({"y": "index-other-tensor-1.safetensors"}, "it names a tensor that is not in the file"),
    "bad-part": ({"x": "data-cut-off.safetensors"}, "the file that it names is bad"),
}


def write_bad(folder):
    reasons = {f"{name}.safetensors": reason for name, (_, reason) in BAD.items()}
    for name, (raw, _) in BAD.items():
        (folder / f"{name}.safetensors").write_bytes(raw)
    for name, (weight_map, reason) in BAD_INDEXES.items():
        name = f"index-{name}.safetensors.index.json"
        (folder / name).write_text(json.dumps({"weight_map": weight_map}) + "\n")
        reasons[name] = reason
    (folder / "index-other-tensor-1.safetensors").write_bytes(one())
    changed = bytearray((folder.parent / "good" / f"{OURS}-everything.safetensors").read_bytes())
    changed[-1] ^= 1
    (folder / "data-changed.safetensors").write_bytes(changed)
    reasons["data-changed.safetensors"] = "a byte of a tensor does not fit its checksum"
    width = max(map(len, reasons)) + 1
    lines = [f"{name:{width}}CKPT_E_FORMAT {reason}\n" for name, reason in sorted(reasons.items())]
    (folder / "bad.txt").write_text("".join(lines))


if __name__ == "__main__":
    directory = pathlib.Path(sys.argv[1]) / "safetensors"
    for kind in ("good", "bad"):
        (directory / kind).mkdir(parents=True, exist_ok=True)
    write_ours(directory / "good")
    write_theirs(directory / "good")
    write_by_hand(directory / "good")
    write_bad(directory / "bad")
