"""Models: NumPy arrays by their paths in a checkpoint."""
import ctypes
import itertools

import numpy as np

from ._c import Handle, Holder, functions, made, text

# By their numbers in ckpt.h.
DTYPES = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
          "uint64", "bool"]
_NUMBERS = {name: number for number, name in enumerate(DTYPES)}

# The arrays of the models that the library has not done with, which may be some time after they have been freed.
_held = {}
_keys = itertools.count(1)


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def _release(key):
    _held.pop(key, None)


def dtype_of(number):
    """NumPy's dtype of a number of ckpt.h's."""
    if DTYPES[number] == "bfloat16":
        try:
            import ml_dtypes
        except ImportError:
            raise ImportError("libckpt: NumPy has no bfloat16 by itself: pip install ml_dtypes") from None
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(DTYPES[number])


class _Handle(Handle):
    free = functions["ckpt_model_free"]


class Model(Holder):
    """Tensors by their paths, such as "layers/dense/vars/0", and what belongs to them in a file.

    The arrays are borrowed, not copied, strides and all: what is in them when a save reads them is saved, and a load writes
    into them. The model holds them, also while a save of it is being made in the background. By one thread at a time.
    """

    def __init__(self, tensors=()):
        """tensors: {path: array}, or pairs; see add()."""
        self._handle = made(functions["ckpt_model_new"], kind=_Handle)
        key = next(_keys)
        self._arrays = _held[key] = {}
        functions["ckpt_model_own"](self.handle, None, _release, key)
        for path, array in dict(tensors).items():
            self.add(path, array)

    def add(self, path, array):
        """Adds an array of one of DTYPES under a path; see ckpt_model_add(). Another byte order is TypeError."""
        array = np.asanyarray(array)
        number = _NUMBERS.get(array.dtype.name)
        if number is None or not array.dtype.isnative:
            raise TypeError(f"libckpt: '{path}' is of dtype {array.dtype}: it is to be one of {', '.join(DTYPES)}, in this "
                            "machine's byte order")
        strides = None
        if not array.flags.c_contiguous:
            if any(stride % array.itemsize for stride in array.strides):
                raise ValueError(f"libckpt: the elements of '{path}' are not whole elements apart: give "
                                 "numpy.ascontiguousarray() of it")
            strides = (ctypes.c_int64 * array.ndim)(*(stride // array.itemsize for stride in array.strides))
        functions["ckpt_model_add"](self.handle, text(path), number, array.ndim, (ctypes.c_int64 * array.ndim)(*array.shape),
                                    strides, array.__array_interface__["data"][0])
        self._arrays[path] = array

    def set_name(self, group, name):
        """Sets Keras' name of a group, such as "layers/dense"."""
        functions["ckpt_model_set_name"](self.handle, text(group), text(name))

    def set_config(self, config):
        """Sets the configuration that .keras and .h5 files need: JSON, as Keras' model.to_json() gives it."""
        functions["ckpt_model_set_config"](self.handle, text(config))

    def set_asset(self, name, data):
        """Sets an asset of a .keras file, bytes."""
        functions["ckpt_model_set_asset"](self.handle, text(name), *octets(data))

    def set_metadata(self, key, value):
        """Sets an entry of what a .safetensors file says of itself."""
        functions["ckpt_model_set_metadata"](self.handle, text(key), text(value))

    def save(self, path):
        """Saves one file, durably, as a whole or not at all; its ending says what it is."""
        functions["ckpt_model_save"](self.handle, text(path))

    def skipped(self):
        """{path: reason} of the tensors that the last Reader.load() has left as they were."""
        return {path: reason for path, reason in (
            _texts(functions["ckpt_model_skipped"], self.handle, index)
            for index in range(functions["ckpt_model_skipped_len"](self.handle)))}

    def writable(self):
        """The handle, for a load: ValueError where an array cannot be written to."""
        for path, array in self._arrays.items():
            if not array.flags.writeable:
                raise ValueError(f"libckpt: the array of '{path}' is read-only: a load needs one that it may write to")
        return self.handle

    def close(self):
        """Frees the model. A save that is being made goes on."""
        super().close()


def octets(data):
    """Bytes, or what has a buffer, as the library takes them."""
    data = memoryview(data).tobytes()
    return data, len(data)


def _texts(function, handle, index):
    first, second = ctypes.c_char_p(), ctypes.c_char_p()
    function(handle, index, ctypes.byref(first), ctypes.byref(second))
    return first.value.decode(), second.value.decode()
