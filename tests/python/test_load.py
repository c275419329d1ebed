"""A checkpoint into a model that is not its equal: the widths of floats against NumPy's, strides, parts, skipped layers
against Keras', other names, changed bytes; and what must not be touched."""
import ctypes
import os

os.environ.setdefault("KERAS_BACKEND", "numpy")

import h5py
import ml_dtypes  # registers bfloat16
import numpy as np
import pytest

from capi import Failure, Lib

CONVERT, PARTIAL, SKIP, UNVERIFIED = 1, 2, 4, 8
FLOATS = [np.dtype(name) for name in ("float16", ml_dtypes.bfloat16, "float32", "float64")]
BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}
TENSOR = "layers/dense/vars/0"

LIB = Lib()


def hard(dtype):
    """Values that are hard to convert from this dtype: every float of 16 bits, and around the limits of each width."""
    with np.errstate(all="ignore"):
        wide = [np.arange(1 << 16, dtype=np.uint16).view(narrow).astype(np.float64) for narrow in FLOATS[:2]]
    for a in list(wide):
        a = np.sort(a[np.isfinite(a)])
        middle = a[:-1] / 2 + a[1:] / 2
        wide += [middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    limits = np.array([65504, 65519.99999, 65520, 65536, 3.3895314e38, 3.3961775e38, 3.4028235e38, 3.4028235677973366e38,
                       1.7e308, 2.0 ** -14, 2.0 ** -24, 2.0 ** -25, 2.0 ** -126, 2.0 ** -133, 2.0 ** -149, 2.0 ** -150,
                       2.0 ** -1022, 5e-324, 0, np.inf, np.nan])
    rng = np.random.default_rng(1)
    random = rng.standard_normal(50_000) * 2.0 ** rng.integers(-160, 140, 50_000)
    with np.errstate(all="ignore"):
        return np.concatenate([*wide, limits, -limits, random, rng.standard_normal(50_000)]).astype(dtype)


def converted(a, to):
    """NumPy's conversion. Its bfloat16 goes through float32 and rounds twice: here, what float32 drops stays visible
    in its last bit, so that the second rounding is the only one."""
    if a.dtype == to:
        return a
    with np.errstate(all="ignore"):
        if a.dtype == np.float64 and to == FLOATS[1]:
            single = a.astype(np.float32)
            bits = single.view(np.uint32).copy()
            bits[np.abs(single) > np.abs(a)] -= 1
            bits[(bits.view(np.float32) != a) & ~np.isnan(a)] |= 1
            return bits.view(np.float32).astype(to)
        if FLOATS[1] in (a.dtype, to):
            a = a.astype(np.float32)
        return a.astype(to)


def assert_same(found, expected):
    nan = np.isnan(expected)
    assert (np.isnan(found) == nan).all()
    unsigned = BITS[expected.dtype.itemsize]
    different = ~nan & (np.ascontiguousarray(found).view(unsigned) != np.ascontiguousarray(expected).view(unsigned))
    assert not different.any(), (found[different][:5], expected[different][:5])


@pytest.mark.parametrize("kind", ["weights.h5", "keras"])
@pytest.mark.parametrize("source", FLOATS, ids=str)
def test_every_pair_of_floats(tmp_path, source, kind):
    a = hard(source)
    config = '{"module": "keras", "class_name": "Sequential", "config": {}}'
    LIB.save(tmp_path / f"a.{kind}", {TENSOR: a}, config=config)
    for to in FLOATS:
        found = np.empty(a.shape, to)
        assert LIB.load(tmp_path / f"a.{kind}", {TENSOR: found}, CONVERT) == (1, {})
        assert_same(found, converted(a, to))


def test_subnormal_numbers_survive_a_processor_that_flushes_them(tmp_path):
    """As trainers make theirs."""
    csr = Csr()
    a = np.array([5e-324, 1e-310, 1e-40, 6e-8, 1e-7], np.float64)
    expected = {to: converted(a, to) for to in FLOATS}
    LIB.save(tmp_path / "a.weights.h5", {TENSOR: a})
    for to, values in expected.items():
        found = np.empty(a.shape, to)
        with csr:
            assert float("1e-300") * float("1e-10") == 0
            LIB.load(tmp_path / "a.weights.h5", {TENSOR: found}, CONVERT)
        assert_same(found, values)
    assert expected[FLOATS[2]][2] != 0


class Csr:
    """Within it, the thread's floating-point unit takes subnormal numbers for zero."""

    def __init__(self):
        self.libm = ctypes.CDLL("libm.so.6")
        if os.uname().machine != "x86_64":
            pytest.skip("knows the control register of x86-64 alone")
        self.saved, self.flushing = (ctypes.c_uint8 * 64)(), (ctypes.c_uint8 * 64)()

    def __enter__(self):
        assert self.libm.fegetenv(self.saved) == 0
        self.flushing[:] = self.saved[:]
        mxcsr = int.from_bytes(bytes(self.saved[28:32]), "little") | 0x8040
        self.flushing[28:32] = mxcsr.to_bytes(4, "little")
        assert self.libm.fesetenv(self.flushing) == 0

    def __exit__(self, *_):
        self.libm.fesetenv(self.saved)


def views(shape, dtype):
    """Arrays of a shape that lie in memory in different ways, with what is between their elements."""
    for name, base, view in [
        ("transposed", np.empty(shape[::-1], dtype), lambda b: b.T),
        ("reversed", np.empty(shape, dtype), lambda b: b[::-1, ::-1]),
        ("apart", np.empty((shape[0] * 2, shape[1] * 3), dtype), lambda b: b[1::2, ::3]),
    ]:
        base.view(np.uint8)[...] = 0x5A
        yield name, base, view(base)


@pytest.mark.parametrize("to", FLOATS, ids=str)
@pytest.mark.parametrize("source", FLOATS, ids=str)
def test_conversion_into_strides(tmp_path, source, to):
    a = np.random.default_rng(2).standard_normal((300, 217)).astype(source)
    large = np.random.default_rng(3).standard_normal((1100, 1301)).astype(source)  # of several blocks
    LIB.save(tmp_path / "a.weights.h5", {"a": a, "large": large})
    for (name, base, view), (_, _, large_view) in zip(views(a.shape, to), views(large.shape, to)):
        assert LIB.load(tmp_path / "a.weights.h5", {"a": view, "large": large_view}, CONVERT) == (2, {}), name
        assert_same(view, converted(a, to))
        assert_same(large_view, converted(large, to))
        if name == "apart":
            rest = base.copy()
            rest[1::2, ::3] = np.array([0x5A] * to.itemsize, np.uint8).view(to)[0]
            assert (rest.view(np.uint8) == 0x5A).all()


def test_what_has_to_be_decoded(tmp_path):
    """Datasets that are not in the file as they are: in place, strided, converted, several megabytes of them."""
    rng = np.random.default_rng(4)
    arrays = {f"layers/dense_{i}/vars/0": rng.standard_normal((1200, 1000 + i)).astype(np.float32) for i in range(6)}
    with h5py.File(tmp_path / "a.h5", "w") as f:
        for path, a in arrays.items():
            f.create_dataset(path, data=a.astype(">f4"), chunks=(100, 100), shuffle=True)
    plain = {path: np.empty_like(a) for path, a in arrays.items()}
    LIB.load(tmp_path / "a.h5", plain)
    assert all((plain[path] == a).all() for path, a in arrays.items())
    for to in FLOATS:
        turned = {path: np.empty(a.shape[::-1], to).T for path, a in arrays.items()}
        LIB.load(tmp_path / "a.h5", turned, CONVERT)
        for path, a in arrays.items():
            assert_same(turned[path], converted(a, to))


def fails(status, says, *args):
    with pytest.raises(Failure, match=says) as failure:
        LIB.load(*args)
    assert failure.value.status == status


@pytest.mark.parametrize("saved", ["weights.h5", "safetensors"])
def test_memory_wherever_it_begins(tmp_path, saved):
    """How a block is copied depends on where it goes in a page, and where it is in one of the file."""
    a = np.random.default_rng(5).standard_normal((1500, 1001), dtype=np.float32)
    LIB.save(tmp_path / f"a.{saved}", {"a": a, "b": a[:300]})
    raw = np.empty(2 * a.nbytes, np.uint8)
    page = -raw.ctypes.data % 4096
    for start in [*range(0, 100, 4), 1, 2, 2000, 2048, 2060, 4000, 4092, 4095]:
        raw[:] = 0x5A
        views = {}
        for path, b in [("a", a), ("b", a[:300])]:
            at = page + start + (0 if path == "a" else a.nbytes + 4096)
            views[path] = raw[at:at + b.nbytes].view(np.float32).reshape(b.shape)
        LIB.load(tmp_path / f"a.{saved}", views)
        assert (views["a"] == a).all() and (views["b"] == a[:300]).all()
        inside = a.nbytes + a[:300].nbytes
        assert np.count_nonzero(raw != 0x5A) <= inside and (raw[:page + start] == 0x5A).all()


def test_integers_are_not_converted(tmp_path):
    LIB.save(tmp_path / "a.weights.h5", {"a": np.arange(3, dtype=np.int32), "b": np.ones(3, bool)})
    for path, dtype in [("a", np.int64), ("a", np.uint32), ("a", np.float32), ("b", np.int8), ("b", np.float16)]:
        found = np.full(3, 7, dtype)
        fails("CKPT_E_MISMATCH", f"tensor '{path}' is", tmp_path / "a.weights.h5", {path: found}, CONVERT)
        assert (found == 7).all()


def test_nothing_is_touched_where_something_differs(tmp_path):
    LIB.save(tmp_path / "a.weights.h5", {f"g{i}/0": np.ones((200, 200), np.float32) for i in range(40)})
    fits = {f"g{i}/0": np.full((200, 200), 7, np.float32) for i in range(39)}
    wrong = [np.full((200, 201), 7, np.float32), np.full((200, 200), 7, np.int32), np.full((200, 200), 7, np.float16)]
    for a in wrong:
        fails("CKPT_E_MISMATCH", "'g39/0'", tmp_path / "a.weights.h5", {**fits, "g39/0": a}, PARTIAL)
        fails("CKPT_E_MISMATCH", "'g40/0'", tmp_path / "a.weights.h5", {**fits, "g40/0": a}, CONVERT)
        assert all((b == 7).all() for b in [a, *fits.values()])
    for flags in (16, 1 << 31, 0xFFFFFFFF):
        fails("CKPT_E_INVALID_ARGUMENT", "there is no flag", tmp_path / "a.weights.h5", fits, flags)
    assert all((b == 7).all() for b in fits.values())


def test_skips_by_group(tmp_path):
    saved = {f"{group}/{i}": np.ones(4, np.float32) for group in ("a/vars", "a/b/vars", "c/vars", "d") for i in range(3)}
    LIB.save(tmp_path / "a.weights.h5", {**saved, "root": np.ones(4, np.float32), "other": np.ones(4, np.float32)})

    def load(flags, **differ):
        into = {path: np.full(4, 7, np.float32) for path in [*saved, "root", "other"]}
        into.update({path.replace("_", "/"): a.copy() for path, a in differ.items()})
        loaded, skipped = LIB.load(tmp_path / "a.weights.h5", into, flags)
        assert loaded == len(into) - len(skipped) == sum((a == 1).all() for a in into.values())
        assert all((into[path] == 7).all() for path in skipped)
        return skipped

    assert load(SKIP) == {}
    long, short, half = np.full(5, 7, np.float32), np.full((), 7, np.float32), np.full(4, 7, np.float16)
    skipped = load(SKIP, a_vars_1=long)
    assert list(skipped) == ["a/vars/0", "a/vars/1", "a/vars/2"]
    assert skipped["a/vars/1"] == "tensor 'a/vars/1' has shape [4] in the checkpoint, [5] in the model"
    assert skipped["a/vars/0"] == "tensor 'a/vars/0' is left out with 'a/vars/1', which does not fit"
    assert list(load(SKIP, a_b_vars_1=half, d_2=short)) == [*(f"a/b/vars/{i}" for i in range(3)), "d/0", "d/1", "d/2"]
    assert list(load(SKIP | CONVERT, a_b_vars_1=half, d_2=short)) == ["d/0", "d/1", "d/2"]
    # What the file does not have, and what is at the root.
    assert len(load(SKIP, c_vars_9=long)) == 4 and list(load(SKIP | PARTIAL, c_vars_9=long)) == ["c/vars/9"]
    assert list(load(SKIP, root=half)) == ["root"] and list(load(SKIP, none=half)) == ["none"]
    assert list(load(PARTIAL, c_vars_9=long, none=half)) == ["c/vars/9", "none"]


def test_skips_what_keras_skips(tmp_path):
    import keras

    def model(units, seed):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((5,)), keras.layers.Dense(4), keras.layers.Dense(units), keras.layers.BatchNormalization(),
                  keras.layers.Dense(2), keras.layers.Dense(2)]
        return keras.Sequential(layers)

    def tensors(m):
        seen, found = {}, {}
        for layer in m.layers:
            name = keras.src.utils.naming.to_snake_case(type(layer).__name__)
            seen[name] = seen.get(name, -1) + 1
            group = f"layers/{name}_{seen[name]}" if seen[name] else f"layers/{name}"
            found.update({f"{group}/vars/{i}": np.array(v) for i, v in enumerate(layer.weights)})
        return found

    model(3, 0).save_weights(tmp_path / "a.weights.h5")
    theirs = model(6, 1)
    ours = tensors(theirs)
    with pytest.warns(UserWarning, match="objects could not be loaded"):
        theirs.load_weights(tmp_path / "a.weights.h5", skip_mismatch=True)
    loaded, skipped = LIB.load(tmp_path / "a.weights.h5", ours, SKIP)
    assert loaded == 4 and {path.rsplit("/vars", 1)[0] for path in skipped} == {
        "layers/dense_1", "layers/batch_normalization", "layers/dense_2"}
    for path, a in tensors(theirs).items():
        assert (ours[path] == a).all(), path


def test_renames(tmp_path):
    LIB.save(tmp_path / "a.weights.h5", {"encoder/x/0": np.full(2, 1.0), "encoder/y/0": np.full(2, 2.0), "z/0": np.full(2, 3.0)})

    def load(paths, *renames):
        into = {path: np.zeros(2) for path in paths}
        LIB.load(tmp_path / "a.weights.h5", into, 0, renames)
        return [a[0] for a in into.values()]

    assert load(["m/enc/x/0", "m/enc/y/0", "m/z/0"], ("", "m"), ("encoder", "m/enc")) == [1, 2, 3]
    assert load(["m/enc/x/0", "m/enc/y/0", "m/z/0"], ("encoder", "m/enc"), ("", "m")) == [1, 2, 3]  # in any order
    assert load(["x/0", "y/0"], ("encoder", "")) == [1, 2]
    assert load(["x/0", "z/0"], ("encoder/x/0", "x/0")) == [1, 3]
    assert load(["z/0", "zz/0", "zzz/0"], ("z", "zz"), ("z", "zzz")) == [3, 3, 3]  # tied
    fails("CKPT_E_MISMATCH", r"no tensor 'encoder/zz/0' \('zz/0' in the model\)", tmp_path / "a.weights.h5",
          {"zz/0": np.zeros(2)}, 0, [("encoder", "")])
    for renames, says in [([("a", "z"), ("b", "z")], r"renames\[1\].model_prefix 'z'"),
                          ([("a/", "z")], r"renames\[0\].file_prefix 'a/'"), ([("a", "/z")], r"model_prefix '/z'")]:
        fails("CKPT_E_INVALID_ARGUMENT", says, tmp_path / "a.weights.h5", {"z/0": np.zeros(2)}, 0, renames)


def test_changed_tensors(tmp_path):
    a, large = np.ones(100, np.float32), np.ones((2000, 1000), np.float32)
    LIB.save(tmp_path / "a.weights.h5", {"a": a, "large": large})
    for path, into in [("a", np.zeros_like(a)), ("large", np.zeros_like(large))]:
        with h5py.File(tmp_path / "a.weights.h5", "r+") as f:
            f[path][-1] = 2
        fails("CKPT_E_FORMAT", f"tensor '{path}' .*CKPT_LOAD_UNVERIFIED", tmp_path / "a.weights.h5", {path: into})
        assert LIB.load(tmp_path / "a.weights.h5", {path: into}, UNVERIFIED) == (1, {})
        assert (into[-1] == 2).all() and (into[:-1] == 1).all()


def test_filters_that_are_not_read(tmp_path):
    """HDF5's scaleoffset: the message names it, and the other tensors are read."""
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f.create_dataset("a", data=np.arange(100), chunks=(10,), scaleoffset=0)
        f.create_dataset("b", data=np.arange(100), chunks=(10,), compression="gzip")
    for flags in (0, 1):  # CKPT_OPEN_NO_HDF5_LIBRARY
        reader = LIB.make("ckpt_reader_open_flags", os.fspath(tmp_path / "a.h5").encode(), ctypes.c_uint32(flags))
        for name, status in (("b", None), ("a", "CKPT_E_UNSUPPORTED")):
            into = {name: np.zeros(100, np.int64)}
            model = LIB.model(into)
            if status is None:
                LIB("ckpt_reader_load", reader, model)
                assert (into[name] == np.arange(100)).all()
            else:
                with pytest.raises(Failure, match="'a'.*scaleoffset") as failure:
                    LIB("ckpt_reader_load", reader, model)
                assert failure.value.status == status
            LIB.c.ckpt_model_free(model)
        LIB.c.ckpt_reader_free(reader)
