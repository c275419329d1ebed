""".safetensors before the `safetensors` package: it reads what we write, we read what it writes."""
import ctypes
import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save, save_file

from capi import DTYPES, Failure, Lib
from test_checksums import checksum, key

lib = Lib()


def kind(dtype):
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def every_dtype():
    """Tensors of every dtype, as scalars, without elements, and in strides."""
    rng = np.random.default_rng(0)
    tensors = {}
    for dtype in DTYPES:
        for shape in [(), (3,), (2, 0), (5, 4, 3)]:
            bits = rng.integers(0, 2 if dtype == "bool" else 256, (*shape, kind(dtype).itemsize), dtype="uint8")
            tensors[f"layers/{dtype}/vars/{len(shape)}"] = bits.view(kind(dtype)).reshape(shape)
    tensors["big"] = rng.standard_normal((1 << 18) + 3)
    tensors["größe/ü ✓\n\"\\/0.weight"] = np.arange(3, dtype="uint8")
    tensors["turned"] = rng.standard_normal((30, 20)).T
    tensors["every/second"] = np.arange(20, dtype="int16")[::2]
    return tensors


def header(path):
    """The header and the data."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + n]), raw[8 + n:]


def metadata(path):
    return header(path)[0].get("__metadata__", {})


# What the format calls the dtypes that we have.
KINDS = {"BOOL": "bool", "BF16": ml_dtypes.bfloat16} | {
    dtype[0].upper() + dtype.lstrip("uintfloa"): dtype for dtype in DTYPES if dtype not in ("bool", "bfloat16")}


def tensors_of(path):
    """{name: array}, as the package reads it, of the dtypes that we have. (For NumPy it has no bfloat16 of its own.)"""
    entries = safetensors.deserialize(path.read_bytes())
    return {name: np.frombuffer(entry["data"], KINDS[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in entries if entry["dtype"] in KINDS}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, a in expected.items():
        assert (found[name].dtype, found[name].shape) == (a.dtype, a.shape), name
        assert found[name].tobytes() == a.tobytes(), name


def test_the_package_reads_what_we_write(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    lib.save(path, tensors, names={"": "model", "layers/bool": "größe \"✓\""})
    assert_same(tensors_of(path), tensors)
    known = {name: a for name, a in tensors.items() if a.dtype != ml_dtypes.bfloat16}
    with safetensors.safe_open(path, "numpy") as f:
        assert set(f.keys()) == set(tensors)
        assert_same({name: f.get_tensor(name) for name in known}, known)
        assert set(f.metadata()) == {"libckpt.checksums", "libckpt.guard", "libckpt.names", "libckpt.state"}
        assert json.loads(f.metadata()["libckpt.names"]) == {"": "model", "layers/bool": "größe \"✓\""}
        assert json.loads(f.metadata()["libckpt.state"])["save"] == 0


def test_the_metadata_is_the_callers_and_ours(tmp_path):
    path, given = tmp_path / "x.safetensors", {"format": "pt", "größe": "\"✓\"\n\\", "": ""}
    config = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"name": "\"é\""}})
    lib.save(path, {"x": np.arange(3.0)}, config=config, metadata=given)
    with safetensors.safe_open(path, "numpy") as f:
        found = f.metadata()
    assert found.pop("libckpt.config") == config
    assert {key: value for key, value in found.items() if not key.startswith("libckpt.")} == given
    with pytest.raises(Failure, match="metadata 'libckpt.state'") as failure:
        lib.model({}, metadata={"libckpt.state": "mine"})
    assert failure.value.status == "CKPT_E_INVALID_ARGUMENT"


def test_the_data_is_what_the_package_would_write(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    lib.save(path, tensors)
    ours, our_data = header(path)
    (tmp_path / "y").write_bytes(save({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in tensors.items()}))
    theirs, their_data = header(tmp_path / "y")
    del ours["__metadata__"]
    assert ours == theirs
    assert our_data == their_data


@pytest.mark.parametrize("size,unit", [(100, 64), (1 << 20, 4096)])
def test_the_data_begins_at_a_round_number(size, unit, tmp_path):
    path = tmp_path / "x.safetensors"
    lib.save(path, {"x": np.zeros(size, "uint8")})
    assert (path.stat().st_size - size) % unit == 0


def test_we_read_what_the_package_writes(tmp_path):
    path = tmp_path / "model"
    tensors = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in every_dtype().items()}
    for extra in [None, {}, {"format": "np", "größe": "\"✓\"\n"}]:
        save_file(tensors, path, extra)
        assert_same(lib.read(path), tensors)


def test_odd_names_and_unaligned_data_are_read(tmp_path):
    tensors = {name: np.arange(i + 1, dtype="float64") for i, name in enumerate(
        ["model.layers.0.weight", "/", "//", "a/", "a", "a/b", "a-b", "a.b", "libckpt/state", "../x", " ", "✓"])}
    raw = save(tensors)
    (n,) = struct.unpack("<Q", raw[:8])
    text = raw[8:8 + n].rstrip() + b"  "
    for padding in range(8):
        path = tmp_path / "x"
        path.write_bytes(struct.pack("<Q", len(text) + padding) + text + b" " * padding + raw[8 + n:])
        assert_same(lib.read(path), tensors)


def test_tensors_of_dtypes_that_we_do_not_have_are_not_listed(tmp_path):
    save_file({"x": np.arange(3, dtype="complex64"), "y": np.arange(3, dtype="int8")}, tmp_path / "x")
    assert_same(lib.read(tmp_path / "x"), {"y": np.arange(3, dtype="int8")})


def test_the_checksums_are_what_the_page_says(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    lib.save(path, tensors)
    found = metadata(path)["libckpt.checksums"]
    rows = [(int(found[i:i + 16], 16), int(found[i + 16:i + 24], 16)) for i in range(0, len(found), 24)]
    state = metadata(path)["libckpt.state"].rstrip(" ").encode()
    expected = [(key(name), checksum(name, str(a.dtype), a.shape, a.tobytes())) for name, a in tensors.items()]
    expected.append((key("libckpt/state"), checksum("libckpt/state", "uint8", (len(state),), state)))
    assert rows == sorted(expected)


def rewrite(path, change=lambda tensors, metadata: None):
    """Has the package write the file anew."""
    tensors, strings = tensors_of(path), metadata(path)
    change(tensors, strings)
    names = list(tensors)
    np.random.default_rng(1).shuffle(names)
    save_file({name: tensors[name] for name in names}, path, dict(reversed(strings.items())))


def test_a_file_that_was_written_anew_is_as_good(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    lib.save(path, tensors)
    before = path.read_bytes()
    rewrite(path)
    assert path.read_bytes() != before
    assert_same(lib.read(path), tensors)


def test_tensors_that_others_add_or_remove_are_no_fault(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    lib.save(path, tensors)

    def change(found, _):
        found["added"] = np.arange(5)
        del found["big"]
    rewrite(path, change)
    assert_same(lib.read(path), {name: a for name, a in tensors.items() if name != "big"} | {"added": np.arange(5)})


def test_a_tensor_that_others_changed_is_refused(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    lib.save(path, tensors)
    rewrite(path, lambda found, _: found.update(big=found["big"] + 1))
    with pytest.raises(Failure, match="tensor 'big' does not match its checksum") as failure:
        lib.read(path)
    assert failure.value.status == "CKPT_E_FORMAT"
    rewrite(path, lambda _, strings: strings.pop("libckpt.checksums"))
    assert lib.read(path)["big"][0] == tensors["big"][0] + 1


def test_a_session_writes_and_goes_on(tmp_path):
    template = f"{tmp_path}/m-{{epoch}}.safetensors"
    values = {"a/vars/0": np.arange(6.0, dtype="float32").reshape(2, 3)}
    model = lib.model(values)
    for first in [0, 2]:
        session = lib.session(template, save_weights_only=ctypes.c_bool(True), save_best_only=ctypes.c_bool(True))
        for epoch in [first, first + 1]:
            lib.epoch_end(session, epoch, val_loss=1 / (epoch + 1), **{'a "b"\\': float("nan")})
            lib("ckpt_save", session, model)
        lib.c.ckpt_free(session)
    states = [json.loads(metadata(tmp_path / f"m-{epoch}.safetensors")["libckpt.state"]) for epoch in range(1, 5)]
    assert [(s["save"], s["epoch"], s["best"]) for s in states] == [(1, 0, 1.0), (2, 1, 0.5), (3, 2, 1 / 3), (4, 3, 0.25)]
    assert states[0]["metrics"] == {"val_loss": 1.0, 'a "b"\\': "NaN"}
    assert_same(load_file(tmp_path / "m-4.safetensors"), values)


def test_strided_buffers_are_loaded_into(tmp_path):
    path, tensors = tmp_path / "x.safetensors", every_dtype()
    save_file({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in tensors.items()}, path)
    empty = {name: np.zeros_like(a) for name, a in tensors.items()}
    empty["turned"] = np.zeros((30, 20)).T
    empty["every/second"] = np.zeros(20, "int16")[::2]
    model = lib.model(empty)
    reader = lib.make("ckpt_reader_open", str(path).encode())
    lib("ckpt_reader_load", reader, model)
    lib.c.ckpt_reader_free(reader)
    lib.c.ckpt_model_free(model)
    assert_same({name: np.ascontiguousarray(a).reshape(a.shape) for name, a in empty.items()}, tensors)


def mutated(rng, good):
    """The file with up to three changes in its header, and mostly with the length that the header has then."""
    (n,) = struct.unpack("<Q", good[:8])
    text, data = bytearray(good[8:8 + n]), good[8 + n:]
    pieces = [b'"', b"0", b"1", b",", b" ", b"[", b"]", b"\\u0041", b"null", b"-", b"1e0", b'"x":1,', b"{", b"}", b":"]
    for _ in range(rng.integers(1, 4)):
        at, change = rng.integers(len(text) + 1), rng.integers(4)
        if change == 0 and at < len(text):
            text[at] ^= 1 << rng.integers(8)
        elif change == 1:
            del text[at:at + rng.integers(1, 4)]
        elif change == 2:
            text[at:at] = pieces[rng.integers(len(pieces))]
        else:
            text[at:at] = text[at:at + rng.integers(1, 30)]
    return struct.pack("<Q", len(text) if rng.random() < 0.95 else rng.integers(2 * n)) + text + data


def test_damaged_headers_are_judged_as_the_package_judges_them(tmp_path):
    rng = np.random.default_rng(0)
    good = save({"a": np.arange(3, dtype="float32"), "b/c": np.arange(4, dtype="int8"), "d": np.zeros((), "int64"),
                 "e": np.zeros((2, 0), "uint16")}, {"format": "np", "x": "y"})
    read = 0
    for i in range(3000):
        path = tmp_path / str(i)  # a new one each time: ext4 flushes a file that is written over
        path.write_bytes(mutated(rng, good))
        try:
            theirs, refusal = tensors_of(path), None
        except safetensors.SafetensorError as e:
            theirs, refusal = None, str(e)
        try:
            ours = lib.read(path)
        except Failure as e:
            assert e.status == "CKPT_E_FORMAT"
            # The package takes names that are no paths, the last of two strings by one name, and a space before the header.
            assert refusal or any(why in str(e) for why in ["its name", "stands in it twice", "neither"]), e
            continue
        # The package refuses a dtype that it does not know; for us that tensor is not there.
        assert theirs is not None or "unknown variant" in refusal, refusal
        if theirs is not None:
            assert_same(ours, theirs)
            read += 1
    assert read > 20


def test_an_index_of_several_files_is_read(tmp_path):
    tensors = {f"layers.{i}.weight": np.arange(i * 3, dtype="float32") for i in range(9)}
    weight_map = {}
    for shard in range(3):
        name = f"model-{shard + 1:05}-of-00003.safetensors"
        part = {key: a for i, (key, a) in enumerate(tensors.items()) if i % 3 == shard}
        save_file(part, tmp_path / name, {"format": "pt"})
        weight_map |= dict.fromkeys(part, name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 432}, "weight_map": weight_map}, indent=2) + "\n")
    assert_same(lib.read(index), tensors)
