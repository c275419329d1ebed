"""Files of others whose structures are large, for tests/allocations.rs: DIR."""

import json
import pathlib
import sys
import zipfile

import h5py
import numpy as np

dir = pathlib.Path(sys.argv[1])
dir.mkdir(parents=True, exist_ok=True)

LARGE = np.arange(300_000, dtype="float32").reshape(600, 500)

for libver in ["earliest", "latest"]:
    with h5py.File(dir / f"others-{libver}.h5", "w", libver=(libver, "latest")) as f:
        for i in range(1500):
            # Names long enough for heaps of some hundred KiB.
            f.create_dataset(f"many/{'n' * 100}{i}", data=np.float32(i))
        f.create_dataset("gzip", data=LARGE, chunks=(100, 500), compression="gzip", shuffle=True, fletcher32=True)
        f.create_dataset("lzf", data=LARGE, chunks=(7, 500), compression="lzf")
        f.create_dataset("small chunks", data=LARGE[:60], chunks=(1, 10))
        f.create_dataset("grows", data=LARGE[:60], chunks=(3, 20), maxshape=(None, 500))
        f.create_dataset("grows both ways", data=LARGE[:60], chunks=(3, 20), maxshape=(None, None))
        f.create_dataset("big-endian", data=LARGE.astype(">f8"))
        for i in range(400):
            f["lzf"].attrs[f"attribute-{i}"] = "v" * 100

# Keras 2: its own names of the weights, layers in the order of the configuration.
layers = 800
with h5py.File(dir / "keras2.h5", "w") as f:
    names = [f"dense_{i}_{'n' * 30}" for i in range(layers)]
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [
        {"class_name": "Dense", "config": {"name": name, "trainable": True, "units": 2, "use_bias": True}} for name in names]}}
    f.attrs["keras_version"] = "2.13.1"
    f.attrs["backend"] = "tensorflow"
    f.attrs["model_config"] = json.dumps(config)
    weights = f.create_group("model_weights")
    weights.attrs["layer_names"] = [name.encode() for name in names]
    for name in names:
        group = weights.create_group(name)
        group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
        group.create_dataset(f"{name}/kernel:0", data=np.ones((2, 2), "float32"))
        group.create_dataset(f"{name}/bias:0", data=np.ones(2, "float32"))

# Keras 2.13: layers in a container of another name.
with h5py.File(dir / "former.weights.h5", "w") as f:
    for i in range(900):
        f.create_dataset(f"_layer_checkpoint_dependencies/dense_{2 * i}/vars/0", data=np.ones(3, "float32"))

with h5py.File(dir / "weights", "w") as f:
    f.create_dataset("layers/dense/vars/0", data=LARGE)
with zipfile.ZipFile(dir / "deflated.keras", "w") as z:
    z.write(dir / "weights", "model.weights.h5")
    text = json.dumps({"module": "keras", "class_name": "Sequential", "config": {"layers": ["l" * 50] * 3000}})
    z.writestr("config.json", text, zipfile.ZIP_DEFLATED)
    z.writestr("metadata.json", "{}", zipfile.ZIP_DEFLATED)
    z.writestr("assets/words.txt", "word " * 10_000, zipfile.ZIP_DEFLATED)

# An index of two files of safetensors.
places = {}
for shard in range(2):
    header, at = {}, 0
    for i in range(1200):
        name = f"layer.{shard}.{i}.{'n' * 60}"
        header[name] = {"dtype": "F32", "shape": [2, 2], "data_offsets": [at, at + 16]}
        at += 16
        places[name] = f"model-{shard}.safetensors"
    header["__metadata__"] = {f"key-{i}": "\\ \"quoted\" ✓" * 20 for i in range(100)}
    text = json.dumps(header).encode()
    with open(dir / f"model-{shard}.safetensors", "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + bytes(at))
index = {"metadata": {"total_size": 38400, "note": "n" * 20_000}, "weight_map": places}
(dir / "model.safetensors.index.json").write_text(json.dumps(index))
