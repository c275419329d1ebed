"""The Python peers: how a user of each would save and load the same tensors. None of them flushes to the disk, but
torch.distributed.checkpoint, which does."""
import os
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "numpy")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
import h5py
import numpy as np
import safetensors
import safetensors.numpy

from contest import timed


def torch_from(directory):
    """Makes torch importable from the directory where it was installed; the module, or None and why not."""
    if not os.path.isdir(directory):
        return None, "it could not be installed"
    sys.path.append(directory)
    try:
        import torch
        import torch.distributed
        import torch.distributed.checkpoint
        import torch.distributed.checkpoint.staging
    except Exception as e:  # whatever it is, the benchmark goes on
        return None, f"{type(e).__name__}: {e}"
    return torch, None


def path_of(i):
    return f"layers/dense_{i // 3}/vars/{i % 3}"


def arrays(count, bytes_each):
    """Tensors like those of the programs in C (worker.c)."""
    rng = np.random.default_rng(0)
    return {path_of(i): rng.random(bytes_each // 4, dtype=np.float32) for i in range(count)}


def save_h5py(path, tensors):
    """The file as Keras' saving writes it: a group with a name for each layer, a dataset for each variable."""
    with h5py.File(path, "w") as f:
        for p, a in tensors.items():
            group, _, leaf = p.rpartition("/")
            g = f.get(group)
            if g is None:
                g = f.create_group(group)
                g.attrs["name"] = group.split("/")[-2]
            g[leaf] = a


def load_h5py(path, tensors):
    """As Keras' loading reads it: group by group, a dataset for each variable."""
    with h5py.File(path) as f:
        group, g = None, None
        for p, a in tensors.items():
            above, _, leaf = p.rpartition("/")
            if above != group:
                group, g = above, f[above]
            g[leaf].read_direct(a)


def offsets(path, count):
    """Where the bytes of each tensor are in a file of HDF5."""
    with h5py.File(path) as f:
        return [f[path_of(i)].id.get_offset() + f.userblock_size for i in range(count)]


def keras_model(count, bytes_each):
    """A Keras model of as many tensors of as many bytes: dense layers without a bias."""
    import keras
    narrow = 1 << max(0, (bytes_each // 4).bit_length() // 2 - 1)
    sizes = narrow, bytes_each // 4 // narrow
    model = keras.Sequential([keras.layers.Input((sizes[0],))])
    for i in range(count):
        model.add(keras.layers.Dense(sizes[(i + 1) % 2], use_bias=False, kernel_initializer="zeros"))
    rng = np.random.default_rng(0)
    for v in model.variables:
        v.assign(rng.random(v.shape, dtype=np.float32))
    return model


class Torch:
    """torch.save, torch.load and torch.distributed.checkpoint.async_save."""

    def __init__(self, torch, tensors):
        self.torch, self.state = torch, {p: torch.from_numpy(a) for p, a in tensors.items()}

    def save(self, path):
        return timed(lambda: self.torch.save(self.state, path))

    def load(self, path):
        return timed(lambda: self.torch.load(path, weights_only=True))

    def async_save(self, path):
        """What stops the training is the call; the rest is in the background. Its staging memory is used again."""
        dist, dcp = self.torch.distributed, self.torch.distributed.checkpoint
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        if not hasattr(self, "stager"):
            # All that its defaults want more is for devices.
            self.stager = dcp.staging.DefaultStager(dcp.staging.StagingOptions(False, False, False, False))
        cpu, start = time.process_time(), time.perf_counter()
        done = dcp.async_save(self.state, checkpoint_id=path, async_stager=self.stager)
        returned = time.perf_counter()
        done.result()
        end = time.perf_counter()
        return {"secs": end - start, "stall": returned - start, "background": end - returned,
                "cpu": time.process_time() - cpu}


def save_safetensors(path, tensors):
    safetensors.numpy.save_file(tensors, path)


def load_safetensors(path):
    return safetensors.numpy.load_file(path)
