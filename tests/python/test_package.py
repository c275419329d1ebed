"""The Python package libckpt: what it declares is what ckpt.h declares, and it does what it says."""
import copy
import gc
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import weakref
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import libckpt
from libckpt import _c, model

ROOT = Path(__file__).resolve().parents[2]
HEADER = re.sub(r"/\*.*?\*/", "", (ROOT / "include/ckpt.h").read_text(), flags=re.S)
# Not for Python: models in the making (Keras makes them there), and what functions of a source need.
LEFT_OUT = re.compile("ckpt_keras_|ckpt_model_add_fence|ckpt_model_owned|ckpt_set_last_error")
LETTERS = {"bool": "b", "uint32_t": "u", "uint64_t": "U", "size_t": "z", "double": "d", "void": "v", "int": "i",
           "const char *": "s"}
HANDLES = {"ckpt", "ckpt_model", "ckpt_options", "ckpt_reader"}


def letter(declaration):
    """The letter of _c.PROTOTYPES for the type of a parameter, or of a result."""
    kind = re.sub(r"\benum |\bstruct ", "", declaration).strip()
    if kind in LETTERS:
        return LETTERS[kind]
    if "*" in kind:
        return "h" if re.fullmatch(r"(const )?(\w+) \*", kind)[2] in HANDLES else "p"
    return "p" if kind.endswith("_fn") else "i"


def test_every_function_is_declared_as_in_the_header():
    declared = {}
    for result, name, parameters in re.findall(r"^((?:const |enum )*\w+ \*?)(ckpt_\w+)\(([^()]*)\);", HEADER, re.M):
        if LEFT_OUT.match(name):
            continue
        kinds = [re.sub(r"\w+$", "", p.strip()) for p in parameters.split(",")] if parameters != "void" else []
        result = "n" if name == "ckpt_last_os_error" else letter(result)
        declared[name] = f"{result}:{''.join('p' if k.count('*') > 1 else letter(k) for k in kinds)}"
    words = _c.PROTOTYPES.split()
    assert dict(zip(words[::2], words[1::2])) == declared


def test_the_enums_are_those_of_the_header():
    from libckpt.session import LEVELS, _CHOICES
    for name, values in {**_CHOICES, "log_level": LEVELS}.items():
        body = re.search(rf"typedef enum ckpt_{name} {{(.*?)}}", HEADER, re.S)[1]
        numbers = {k.lower(): int(v) for k, v in re.findall(r"CKPT_[A-Z]+_(?:NAN_)?(\w+) = (\d+)", body)}
        numbers.pop("snapshot", None)
        assert {v: i for i, v in enumerate(values)} == {k.removeprefix(name + "_"): v for k, v in numbers.items()}, name
    statuses = dict(re.findall(r"(CKPT_E_\w+) = (\d+)", HEADER))
    for kind in libckpt.Error.__subclasses__() + [libckpt.NoSpaceError]:
        with pytest.raises(kind):
            from libckpt.errors import raise_for
            raise_for(int(statuses[kind.status]), "", 0)
    assert len(statuses) == len(libckpt.Error.__subclasses__()) + 1


def test_the_version_is_that_of_the_library():
    assert libckpt.__version__ == re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def arrays():
    rng = np.random.default_rng(1)
    made = {f"all/vars/{name}": rng.integers(0, 2, (3, 5)).astype(name) for name in model.DTYPES if name != "bfloat16"}
    made["all/vars/bfloat16"] = rng.standard_normal((3, 5)).astype(ml_dtypes.bfloat16)
    made["odd/vars/transposed"] = rng.standard_normal((4, 6)).T
    made["odd/vars/reversed"] = np.arange(10)[::-2]
    made["odd/vars/scalar"] = np.float32(3)
    made["odd/vars/empty"] = np.empty((0, 3), "int8")
    return made


@pytest.mark.parametrize("ending", ["weights.h5", "safetensors", "weights.json", "keras"])
def test_what_is_saved_is_read_again(ending, tmp_path):
    path, tensors = tmp_path / f"m.{ending}", arrays()
    with libckpt.Model(tensors) as m:
        m.set_name("odd", "seltsam ö")
        if ending == "keras":
            m.set_config(json.dumps({"module": "keras", "class_name": "Sequential", "config": {}}))
            m.set_asset("a/b.txt", b"\0x")
            m.set_asset("empty", b"")
        m.save(path)
    with libckpt.Reader(path) as reader:
        reader.verify()
        assert sorted(reader) == sorted(tensors) and len(reader) == len(tensors)
        for name, array in tensors.items():
            assert reader.dtype(name) == array.dtype and reader.shape(name) == array.shape
            assert np.array_equal(reader[name], array), name
        assert reader.names == {"odd": "seltsam ö"}
        assert reader.assets == ({"a/b.txt": b"\0x", "empty": b""} if ending == "keras" else {})
        assert (reader.config is None) == (ending != "keras") and json.loads(reader.state)["libckpt"]
        with pytest.raises(KeyError, match="nowhere"):
            reader["nowhere"]
        into = {name: np.zeros_like(array) for name, array in tensors.items() if array.shape}
        assert reader.load(libckpt.Model(into)) == len(into)
        assert all(np.array_equal(into[name], tensors[name]) for name in into)
    libckpt.convert(path, tmp_path / "copy.weights.h5")
    assert len(libckpt.Reader(tmp_path / "copy.weights.h5")) == len(tensors)


def test_loads_that_do_not_fit(tmp_path):
    libckpt.Model({"a/vars/0": np.ones(3, "f"), "b/vars/0": np.ones(2, "f")}).save(tmp_path / "m.weights.h5")
    reader = libckpt.Reader(tmp_path / "m.weights.h5")
    with pytest.raises(libckpt.MismatchError, match="a/vars/0"):
        reader.load(libckpt.Model({"a/vars/0": np.ones(4, "f")}))
    other = libckpt.Model({"a/vars/0": np.ones(4, "f"), "c/vars/0": np.zeros(2, "f")})
    assert reader.load(other, skip_mismatch=True, renames=[("b", "c")]) == 1
    assert list(other.skipped()) == ["a/vars/0"]
    fixed = np.ones(3, "f")
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="a/vars/0.*read-only"):
        reader.load(libckpt.Model({"a/vars/0": fixed}))
    with pytest.raises(TypeError, match="no argument 'strict'"):
        reader.load(other, strict=True)


@pytest.mark.parametrize("array, error, message", [
    (np.array(["x"]), TypeError, "dtype <U1"), (np.ones(2, ">f4"), TypeError, "byte order"),
    (np.ones(2, complex), TypeError, "complex128"), (np.array([None]), TypeError, "object"),
    (np.zeros(4, "u1,f4")["f1"], ValueError, "ascontiguousarray"),
])
def test_arrays_that_no_file_has_room_for(array, error, message):
    with pytest.raises(error, match=f"'a/vars/0'.*{message}"):
        libckpt.Model({"a/vars/0": array})


def test_a_session_decides_and_resumes(tmp_path):
    template, w = tmp_path / "{epoch}-{val_loss:.2f}.weights.h5", np.zeros(3)
    options = dict(save_best_only=True, save_weights_only=True, keep_last=2, asynchronous="copy", verbose=1)
    lines, done = [], []
    with libckpt.Session(template, log=lambda level, line: lines.append((level, line)),
                         progress=lambda path, n, total: done.append((path, n == total)), **options) as session:
        assert session.best is None and session.best_path is None and session.last_stats is None and session.path is None
        m = libckpt.Model({"a/vars/0": w})
        session.prepare(m)
        for epoch, loss in enumerate([3, 1, 2, 0.5]):
            w[:] = epoch
            session.set_state("rng", bytes([epoch]))
            if session.on_epoch_end(epoch, {"val_loss": loss}):
                assert session.path == str(template).format(epoch=epoch + 1, val_loss=loss)
                session.save(m)
        session.on_train_end()
        assert session.best == 0.5 and session.best_path.endswith("4-0.50.weights.h5") and not session.preempted
        assert session.last_stats["bytes"] > 24 and (session.best_path, True) in done
        assert ("info", f"Epoch 1: val_loss improved from None to 3.00000, saving model to {tmp_path}/1-3.00.weights.h5") in lines
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2-1.00.weights.h5", "4-0.50.weights.h5"]
    with libckpt.Session(template, **options, log=lambda *_: None) as session:
        w[:] = 9
        resumed = session.resume(m)
        assert (resumed.epoch, resumed.batch, resumed.best) == (4, 0, 0.5) and resumed.path == session.best_path
        assert (w == 3).all() and session.get_state("rng") == b"\3" and session.get_state("nothing") is None
        w[:] = 0
        session.load_best(m)
        assert (w == 3).all()
    with libckpt.Session(tmp_path / "other-{epoch}.weights.h5", save_weights_only=True) as session:
        assert session.resume(m) is None


def test_errors_are_pythons_too(tmp_path):
    with pytest.raises(LookupError, match="nowhere.keras"):
        libckpt.Reader("/nowhere.keras")
    (tmp_path / "bad.keras").write_bytes(b"PK not")
    with pytest.raises(libckpt.FormatError, match="bad.keras"):
        libckpt.Reader(tmp_path / "bad.keras")
    with pytest.raises(OSError) as e:
        libckpt.Model({"a": np.ones(2)}).save("/proc/x.weights.h5")
    assert e.value.errno and "/proc" in str(e.value)
    with pytest.raises(libckpt.TemplateError, match="epoch"):
        libckpt.Session("{epoch!x}.keras")
    with pytest.raises(TypeError, match="no option 'keep'.*keep_last"):
        libckpt.Session("m.keras", keep=1)
    with pytest.raises(ValueError, match="'min', 'max'"):
        libckpt.Session("m.keras", mode="least")
    wrong = {"keep_last": "three", "keep_best": -1, "save_freq": -1, "threads": 2**32, "save_on_signal": "TERM"}
    for name, value in wrong.items():
        with pytest.raises(TypeError, match=f"{name} is {value!r}"):
            libckpt.Session("m.keras", **{name: value})
    libckpt.Session(tmp_path / "m.keras", keep_last=np.int64(3)).on_epoch_end(np.uint8(3))
    with pytest.raises(ValueError, match="null character"):
        libckpt.Reader("m.keras\0.h5")
    with pytest.raises(TypeError, match="bytes-like"):
        libckpt.Model().set_asset("three", 3)


def test_what_is_closed_says_so(tmp_path):
    libckpt.Model({"a": np.ones(2)}).save(tmp_path / "m.weights.h5")
    reader, session = libckpt.Reader(tmp_path / "m.weights.h5"), libckpt.Session(tmp_path / "m.keras")
    assert "a" in reader and "b" not in reader and 3 not in reader
    for closed, use in (reader, len), (session, lambda session: session.should_save), (libckpt.Model(), libckpt.Model.skipped):
        closed.close()
        closed.close()
        with pytest.raises(ValueError, match=f"this {type(closed).__name__} is closed"):
            use(closed)


def test_an_error_that_somebody_keeps_keeps_nothing_open(tmp_path):
    session = libckpt.Session(tmp_path / "m.keras", save_on_signal=signal.SIGUSR2)
    with pytest.raises(libckpt.StateError) as kept:
        session.save(libckpt.Model({"a": np.ones(2)}))
    session.close()
    assert not list(tmp_path.iterdir()) and kept


def test_copies(tmp_path):
    """A shallow copy is of the same session; a deep one would be freed twice."""
    for original in libckpt.Model({"a": np.ones(2)}), libckpt.Session(tmp_path / "m.keras"):
        with pytest.raises(TypeError, match="deep-copied"):
            copy.deepcopy(original)
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(original)
        same = copy.copy(original)
        original.close()
        assert same.handle
        del original
        gc.collect()
    same.wait()


def test_a_session_is_not_freed_under_a_call(tmp_path):
    """Nor a model: what one thread closes, another one saves."""
    run([sys.executable, "-c", f"""
import libckpt, numpy as np, threading
for n in range(30):
    session = libckpt.Session({str(tmp_path)!r} + "/{{epoch}}.weights.h5", save_weights_only=True, durability="none")
    model, saving, told = libckpt.Model({{"a/vars/0": np.ones(2_000_000)}}), threading.Event(), []
    def save():
        try:
            while True:
                session.on_epoch_end(0)
                saving.set()
                session.save(model)
        except ValueError as e:
            told.append(str(e))
    thread = threading.Thread(target=save)
    thread.start()
    saving.wait()
    (session if n % 2 else model).close()
    thread.join()
    assert "is closed" in told[0], told
"""])


def test_what_a_log_function_raises_is_raised_by_the_call(tmp_path):
    def log(level, line):
        raise KeyboardInterrupt(line)
    session = libckpt.Session(tmp_path / "m.keras", log=log, verbose=1)
    with pytest.raises(KeyboardInterrupt, match="saving model to"):
        session.on_epoch_end(0)
    assert session.should_save


def test_borrowed_arrays_live_until_they_are_written(tmp_path):
    session = libckpt.Session(tmp_path / "{epoch}.weights.h5", save_weights_only=True, asynchronous="borrow")
    for epoch in range(3):
        array = np.full(3_000_000, epoch, "f")
        gone = weakref.ref(array)
        session.on_epoch_end(epoch)
        session.save(libckpt.Model({"a/vars/0": array}))
        del array
    session.wait()
    gc.collect()
    assert gone() is None and not model._held
    for epoch in range(3):
        assert (libckpt.Reader(tmp_path / f"{epoch + 1}.weights.h5")["a/vars/0"] == epoch).all()


def test_a_program_that_just_ends_has_its_saves(tmp_path):
    """Also those from arrays that go with the interpreter."""
    run([sys.executable, "-c", f"""
import libckpt, numpy as np
session = libckpt.Session({str(tmp_path)!r} + "/{{epoch}}.weights.h5", save_weights_only=True, asynchronous="borrow")
for epoch in range(2):
    session.on_epoch_end(epoch)
    session.save(libckpt.Model({{"a/vars/0": np.full(5_000_000, epoch, "f")}}))
"""])
    for epoch in range(2):
        assert (libckpt.Reader(tmp_path / f"{epoch + 1}.weights.h5")["a/vars/0"] == epoch).all()


def run(command, **variables):
    done = subprocess.run(command, env={**os.environ, **variables}, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_all_it_needs(tmp_path):
    """`make wheel`, and the package from it alone: no other library, no Keras."""
    run(["make", "-C", ROOT, "wheel"])
    [wheel] = (ROOT / "build/wheel").glob("*.whl")
    assert "manylinux" in wheel.name
    run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", tmp_path, wheel])
    program = "import libckpt, sys; print(libckpt._c.library._name, 'keras' in sys.modules, 'ml_dtypes' in sys.modules)"
    told = run([sys.executable, "-c", program], PYTHONPATH=str(tmp_path), LIBCKPT_LIBRARY="")
    assert told.split() == [str(tmp_path / "libckpt/libckpt.so"), "False", "False"]


def test_a_missing_library_is_told(tmp_path):
    program = "import libckpt"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "LIBCKPT_LIBRARY": str(tmp_path / "no.so")},
                          text=True, capture_output=True)
    assert done.returncode == 1 and "ImportError: libckpt: the shared library is missing" in done.stderr
