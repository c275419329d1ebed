"""ckpt_keras_* through ctypes, for the tests."""
import ctypes
import json
import os
import zipfile

from capi import DTYPES, Lib, TensorInfo

lib = Lib()


class Builder:
    """A ckpt_keras, and the arrays that are bound to it."""

    def __init__(self, shape, **more):
        self.handle = lib.make("ckpt_keras_new")
        self.arrays = {}
        self.add("InputLayer", {"shape": shape, **more})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        lib.c.ckpt_keras_free(self.handle)

    def add(self, name, config):
        config = config if isinstance(config, str) else json.dumps(config)
        return lib.make("ckpt_keras_add", self.handle, name.encode(), config.encode(), kind=ctypes.c_size_t).value

    def variable(self, layer, name):
        info = lib.make("ckpt_keras_variable", self.handle, ctypes.c_size_t(layer), name.encode(), kind=TensorInfo)
        return info.path.decode(), tuple(info.shape[:info.rank]), DTYPES[info.dtype]

    def bind(self, layer, name, array):
        self.arrays[layer, name] = array
        strides = (ctypes.c_int64 * array.ndim)(*(s // array.itemsize for s in array.strides))
        lib("ckpt_keras_bind", self.handle, ctypes.c_size_t(layer), name.encode(), DTYPES.index(str(array.dtype)),
            None if array.flags.c_contiguous else strides, ctypes.c_void_p(array.ctypes.data))

    def compile(self, name, **config):
        lib("ckpt_keras_compile", self.handle, name.encode(), json.dumps(config).encode())

    def bind_optimizer(self, slot, array, layer=0, variable=None):
        self.arrays[slot, layer, variable] = array
        lib("ckpt_keras_bind_optimizer", self.handle, slot.encode(), ctypes.c_size_t(layer),
            variable and variable.encode(), DTYPES.index(str(array.dtype)), None, ctypes.c_void_p(array.ctypes.data))

    def save(self, path):
        model = lib.make("ckpt_keras_model", self.handle)
        try:
            lib("ckpt_model_save", model, os.fspath(path).encode())
        finally:
            lib.c.ckpt_model_free(model)


def config_of(path):
    """The configuration in a .keras file, without what tells nothing of the model."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k != "shared_object_id"}
        return [plain(v) for v in value] if isinstance(value, list) else value

    return plain(json.loads(zipfile.ZipFile(path).read("config.json")))
