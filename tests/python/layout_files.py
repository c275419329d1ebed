"""Judges the files that tests/layout_python.rs wrote: h5py, zipfile, Keras, the tools of HDF5 and zip.

Run with a directory as its argument, it makes the cases that come from Keras' models. Run by pytest, with the
directory in CKPT_LAYOUT_CASES, it compares each case's files with its manifest.
"""

import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest


# --- making cases ----------------------------------------------------------------------------------------------


def models():
    layers = keras.layers
    dense = keras.Sequential(
        [layers.Input((8,)), layers.Dense(16, "relu"), layers.Dropout(0.5, seed=3), layers.Dense(3, "softmax")],
        name="dense",
    )
    dense.compile("adam", "categorical_crossentropy")
    dense.optimizer.build(dense.trainable_variables)

    image = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    x = layers.BatchNormalization()(x)
    x = layers.Concatenate()([x, layers.SeparableConv2D(4, 3, padding="same", name="trennbar_ö")(x)])
    convolutional = keras.Model(image, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)), name="convolutional")

    recurrent = keras.Sequential(
        [layers.Input((5,)), layers.Embedding(10, 4), layers.Bidirectional(layers.LSTM(3)), layers.Dense(1)],
        name="recurrent",
    )
    low = keras.Sequential(
        [layers.Input((8,)), layers.Dense(16, dtype="bfloat16"), layers.Dense(3, dtype="float16")], name="low"
    )
    return [dense, convolutional, recurrent, low]


def make(directory):
    keras.utils.set_random_seed(1)
    for model in models():
        reference = directory / f"{model.name}.reference"
        model.save(directory / "reference.keras")
        os.rename(directory / "reference.keras", reference)
        tensors, data, names = [], io.BytesIO(), {}
        with zipfile.ZipFile(reference) as archive, weights_of(archive) as file:
            for path, item in objects(file):
                if isinstance(item, h5py.Dataset):
                    array = item[...]
                    tensors.append({"path": path, "dtype": dtype_of(item), "shape": list(array.shape)})
                    data.write(array.tobytes())
                elif "name" in item.attrs:
                    names[path.removesuffix("vars").removesuffix("/")] = item.attrs["name"]
            config = archive.read("config.json").decode()
        manifest = {"tensors": tensors, "names": names, "config": config}
        (directory / f"{model.name}.json").write_text(json.dumps(manifest))
        (directory / f"{model.name}.bin").write_bytes(data.getvalue())


def weights_of(archive):
    return h5py.File(io.BytesIO(archive.read("model.weights.h5")))


def objects(file):
    """Every object below the root, our own aside."""
    found = []
    file.visititems(lambda path, item: found.append((path, item)))
    return [(path, item) for path, item in found if path.split("/")[0] != "libckpt"]


def dtype_of(dataset):
    return str(dataset.attrs["dtype"]) if "dtype" in dataset.attrs else str(dataset.dtype)


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
    sys.exit()


# --- judging them ----------------------------------------------------------------------------------------------

CASES = pathlib.Path(os.environ["CKPT_LAYOUT_CASES"])
NAMES = sorted(path.stem for path in CASES.glob("*.json"))
KERAS = [name for name in NAMES if (CASES / f"{name}.reference").exists()]
ENDINGS = ["weights.h5", "keras"]


def manifest(name):
    return json.loads((CASES / f"{name}.json").read_text())


def arrays(name):
    """The tensors, by path."""
    data, at, found = (CASES / f"{name}.bin").read_bytes(), 0, {}
    for tensor in manifest(name)["tensors"]:
        dtype = np.dtype(getattr(ml_dtypes, "bfloat16") if tensor["dtype"] == "bfloat16" else tensor["dtype"])
        n = int(np.prod(tensor["shape"], dtype=object)) * dtype.itemsize
        found[tensor["path"]] = np.frombuffer(data[at : at + n], dtype).reshape(tensor["shape"])
        at += n
    assert at == len(data)
    return found


def write_with_h5py(path, name, own):
    """The case as Keras would write it, with our own group as in the file `own`, or without."""
    case = manifest(name)
    with h5py.File(path, "w") as file:
        for group, text in case["names"].items():
            file.require_group(f"{group}/vars" if group else "vars").attrs["name"] = text
        for tensor_path, array in arrays(name).items():
            dataset = file.create_dataset(tensor_path, data=array)
            if array.dtype == ml_dtypes.bfloat16:
                dataset.attrs["dtype"] = "bfloat16"
        if own is not None:
            for key, dataset in own["libckpt"].items():
                file[f"libckpt/{key}"] = dataset[...]


def assert_same(file, name):
    case, expected = manifest(name), arrays(name)
    found = dict(objects(file))
    datasets = {path: item for path, item in found.items() if isinstance(item, h5py.Dataset)}
    assert datasets.keys() == expected.keys()
    for path, array in expected.items():
        dataset = datasets[path]
        assert dtype_of(dataset) == str(array.dtype), path
        assert dataset.shape == array.shape, path
        assert dataset[...].tobytes() == array.tobytes(), path
        assert list(dataset.attrs) == (["dtype"] if array.dtype == ml_dtypes.bfloat16 else [])
    names = {path.removesuffix("vars").removesuffix("/"): item.attrs["name"] for path, item in found.items()
             if "name" in item.attrs}
    assert names == case["names"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", NAMES)
def test_h5py_reads_it(name, ending):
    with h5py.File(CASES / f"{name}.{ending}") as file:
        assert_same(file, name)
        state = file["libckpt/state"][...].tobytes()
        assert json.loads(state) == {"epoch": 3}
        checksums = file["libckpt/checksums"]
        assert checksums.shape == (len(manifest(name)["tensors"]) + 1, 2)
        assert np.all(np.diff(checksums[:, 0].astype(object)) >= 0)


@pytest.mark.parametrize("name", NAMES)
def test_types_and_attributes_are_those_of_h5py(name, tmp_path):
    write_with_h5py(tmp_path / "h5py.h5", name, None)
    with h5py.File(tmp_path / "h5py.h5") as theirs, h5py.File(CASES / f"{name}.weights.h5") as ours:
        assert [path for path, _ in objects(ours)] == [path for path, _ in objects(theirs)]
        for (path, a), (_, b) in zip(objects(ours), objects(theirs)):
            assert h5py.h5i.get_type(a.id) == h5py.h5i.get_type(b.id)
            if isinstance(a, h5py.Dataset):
                assert a.id.get_type().equal(b.id.get_type()), path
                assert a.id.get_type().encode() == b.id.get_type().encode(), path
                assert a.maxshape == b.maxshape and a.chunks is None
                assert a.id.get_storage_size() == b.id.get_storage_size()
            assert list(a.attrs) == list(b.attrs)
            for key in a.attrs:
                x, y = a.attrs.get_id(key), b.attrs.get_id(key)
                assert x.get_type().encode() == y.get_type().encode()
                assert x.shape == y.shape and a.attrs[key] == b.attrs[key]


@pytest.mark.parametrize("name", NAMES)
def test_the_size_is_at_most_that_of_h5py(name, tmp_path):
    ours = (CASES / f"{name}.weights.h5").stat().st_size
    with h5py.File(CASES / f"{name}.weights.h5") as file:
        write_with_h5py(tmp_path / "with.h5", name, file)
    write_with_h5py(tmp_path / "without.h5", name, None)
    sizes = [(tmp_path / f).stat().st_size for f in ("with.h5", "without.h5")]
    data = (CASES / f"{name}.bin").stat().st_size
    print(f"{name}: ours {ours}, h5py {sizes[0]}, without /libckpt {sizes[1]}, data {data}")
    assert ours <= sizes[0]
    if name == "many":
        assert ours <= sizes[1]
        own = 4096 + 16 * (len(manifest(name)["tensors"]) + 1)
        assert (ours - data - own) <= 0.6 * (sizes[0] - data - own)


@pytest.mark.parametrize("name", NAMES)
def test_h5py_edits_it(name, tmp_path):
    path = shutil.copy(CASES / f"{name}.weights.h5", tmp_path / "edited.h5")
    with h5py.File(path, "r+") as file:
        groups = [""] + [p for p, item in objects(file) if isinstance(item, h5py.Group)]
        for group in groups[:50]:
            for i in range(20):
                file[f"{group}/added {i}"] = np.arange(i)
            file[group or "/"].attrs["added"] = "ä" * 100
    with h5py.File(path, "r+") as file:
        for group in groups[:50]:
            for i in range(20):
                assert np.array_equal(file[f"{group}/added {i}"][...], np.arange(i))
                del file[f"{group}/added {i}"]
            assert file[group or "/"].attrs["added"] == "ä" * 100
    with h5py.File(path) as file:
        assert_same(file, name)
    with h5py.File(path, "r+") as file:
        for key in list(file):
            del file[key]
        file["x"] = 1
    with h5py.File(path) as file:
        assert list(file) == ["x"]


@pytest.mark.parametrize("name", NAMES)
def test_zip(name):
    path, case = CASES / f"{name}.keras", manifest(name)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["model.weights.h5", "metadata.json", "config.json"]
        assert archive.read("config.json").decode() == case["config"]
        metadata = json.loads(archive.read("metadata.json"))
        assert metadata == {"keras_version": "3.15.1", "date_saved": "2026-11-24@21:47:30"}
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_STORED and info.flag_bits == 0
            assert info.date_time == (2026, 11, 24, 21, 47, 30)
        with weights_of(archive) as file:
            assert_same(file, name)
    assert path.read_bytes()[4096:4104] == b"\x89HDF\r\n\x1a\n"


TOOLS = [
    ("h5ls", "-r", "{}"),
    ("h5dump", "-H", "{}"),
    ("h5stat", "{}"),
    ("h5debug", "{}"),
]
ZIP_TOOLS = [("unzip", "-tq", "{}"), ("zipinfo", "-v", "{}"), ("bsdtar", "-tvf", "{}")]


@pytest.mark.parametrize("tool", TOOLS + ZIP_TOOLS, ids=lambda tool: tool[0])
@pytest.mark.parametrize("name", NAMES)
def test_tools(name, tool):
    for ending in ENDINGS if tool in TOOLS else ["keras"]:
        run_tool([part.format(CASES / f"{name}.{ending}") for part in tool])


@pytest.mark.parametrize("name", NAMES)
def test_h5debug_finds_nothing_odd_in_any_object(name):
    path = CASES / f"{name}.weights.h5"
    with h5py.File(path) as file:
        items = [file, file["libckpt"], *file["libckpt"].values(), *(item for _, item in objects(file)[:10])]
        addresses = {h5py.h5o.get_info(item.id).addr for item in items}
    for address in addresses:
        run_tool(["h5debug", path, str(address)])


@pytest.mark.parametrize("name", NAMES)
def test_h5copy_edits_it(name, tmp_path):
    """The tools are of another version of the library, and older than h5py's."""
    source, path = CASES / f"{name}.weights.h5", shutil.copy(CASES / f"{name}.weights.h5", tmp_path)
    for i in range(12):
        run_tool(["h5copy", "-p", "-i", source, "-o", path, "-s", "/libckpt/state", "-d", f"/copy {i}/in it/state"])
    with h5py.File(path) as file:
        for i in range(12):
            assert np.array_equal(file[f"copy {i}/in it/state"], file["libckpt/state"])
    with h5py.File(path, "r+") as file:
        for i in range(12):
            del file[f"copy {i}"]
        assert_same(file, name)


def run_tool(command):
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done
    assert done.stderr == "", done
    for word in ("*** ", "unable to", "error:", "bytes too", "extra bytes"):
        assert word not in done.stdout.lower(), done.stdout


@pytest.mark.parametrize("name", KERAS)
def test_keras_loads_it(name):
    reference_path = CASES / "reference.keras"
    shutil.copy(CASES / f"{name}.reference", reference_path)
    reference = keras.models.load_model(reference_path)
    with zipfile.ZipFile(reference_path) as archive, weights_of(archive) as theirs:
        with h5py.File(CASES / f"{name}.weights.h5") as ours:
            assert [p for p, _ in objects(ours)] == [p for p, _ in objects(theirs)]

    model = keras.models.load_model(CASES / f"{name}.keras")
    assert_equal_variables(model, reference)
    for variable in model.variables:
        variable.assign(keras.ops.zeros_like(variable))
    model.load_weights(CASES / f"{name}.weights.h5")
    assert_equal_variables(model, reference)
    model.load_weights(CASES / f"{name}.keras")


def assert_equal_variables(a, b):
    def variables(model):
        found = model.variables + (model.optimizer.variables if getattr(model, "optimizer", None) else [])
        return [v for v in found if "seed_generator" not in v.path]  # Keras does not save these

    assert len(variables(a)) == len(variables(b)) > 0
    for x, y in zip(variables(a), variables(b)):
        x, y = np.asarray(x.value), np.asarray(y.value)
        assert x.dtype == y.dtype and x.tobytes() == y.tobytes()
