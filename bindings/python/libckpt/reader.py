"""Reading checkpoints."""
import collections.abc
import ctypes

import numpy as np

from . import _c
from ._c import Handle, Holder, functions, made, text
from .errors import NotFoundError
from .model import _texts, dtype_of

_LOAD_FLAGS = {"convert_floats": 1, "partial": 2, "skip_mismatch": 4, "unverified": 8}


class _Handle(Handle):
    free = functions["ckpt_reader_free"]


class Reader(Holder, collections.abc.Mapping):
    """An open checkpoint, whoever wrote it: {path: array}. Reading a tensor verifies its checksum. Any thread may use it.

    A load through load() is faster than one array at a time, and goes into arrays that are there already.
    """

    def __init__(self, path):
        self._handle = made(functions["ckpt_reader_open"], text(path), kind=_Handle)

    def __len__(self):
        return functions["ckpt_reader_len"](self.handle)

    def __iter__(self):
        return (self._info(index).path.decode() for index in range(len(self)))

    def __contains__(self, path):
        try:
            return self._find(path) is not None
        except (KeyError, TypeError):
            return False

    def __getitem__(self, path):
        index = self._find(path)
        array = np.empty(self.shape(path), self.dtype(path))
        functions["ckpt_reader_read"](self.handle, index, array.ctypes.data, array.nbytes)
        return array

    def shape(self, path):
        """The shape of a tensor."""
        info = self._info(self._find(path))
        return tuple(info.shape[:info.rank])

    def dtype(self, path):
        """NumPy's dtype of a tensor."""
        return dtype_of(self._info(self._find(path)).dtype)

    def load(self, model, *, renames=(), **flags):
        """Fills every array of a Model: how many have been filled.

        flags: convert_floats, partial, skip_mismatch, unverified, each as ckpt.h's ckpt_load_flags has it; renames: pairs of
        (file_prefix, model_prefix).
        """
        bits = 0
        for flag, on in flags.items():
            if flag not in _LOAD_FLAGS:
                raise TypeError(f"load() has no argument '{flag}'; those that it has are: renames, {', '.join(_LOAD_FLAGS)}")
            bits |= _LOAD_FLAGS[flag] if on else 0
        pairs = (_c.Rename * len(renames))(*(_c.Rename(text(a), text(b)) for a, b in renames))
        return made(functions["ckpt_reader_load_flags"], self.handle, model.writable(), bits, pairs, len(renames),
                    kind=ctypes.c_size_t).value

    def verify(self):
        """Reads everything and compares it with the checksums: FormatError where one differs."""
        functions["ckpt_reader_verify"](self.handle)

    @property
    def config(self):
        """The model's configuration, JSON; None where there is none."""
        return self._json("ckpt_reader_config")

    @property
    def metadata(self):
        """What the file says of itself, JSON; None where that is nothing."""
        return self._json("ckpt_reader_metadata")

    @property
    def state(self):
        """The training state that libckpt has put into the file, JSON; None where another program wrote it."""
        return self._json("ckpt_reader_state")

    @property
    def names(self):
        """{group: Keras' name of it}."""
        count = functions["ckpt_reader_groups_len"](self.handle)
        return dict(_texts(functions["ckpt_reader_group"], self.handle, index) for index in range(count))

    @property
    def assets(self):
        """{name: bytes} of a .keras file's assets."""
        assets = {}
        for index in range(functions["ckpt_reader_assets_len"](self.handle)):
            name = made(functions["ckpt_reader_asset_name"], self.handle, index, kind=ctypes.c_char_p).value
            data, size = ctypes.c_void_p(), ctypes.c_size_t()
            functions["ckpt_reader_asset"](self.handle, name, ctypes.byref(data), ctypes.byref(size))
            assets[name.decode()] = ctypes.string_at(data, size.value) if size.value else b""
        return assets

    def _find(self, path):
        try:
            return made(functions["ckpt_reader_find"], self.handle, text(path), kind=ctypes.c_size_t).value
        except NotFoundError as e:
            raise KeyError(str(e)) from None

    def _info(self, index):
        return made(functions["ckpt_reader_tensor"], self.handle, index, kind=_c.TensorInfo)

    def _json(self, function):
        try:
            return made(functions[function], self.handle, kind=ctypes.c_char_p).value.decode()
        except NotFoundError:
            return None



def convert(src, dst):
    """Writes a checkpoint anew in the format that dst's ending says."""
    functions["ckpt_convert"](text(src), text(dst))
