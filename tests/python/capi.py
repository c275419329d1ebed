"""ckpt.h through ctypes, for the tests and the benchmarks: every call checked, arrays in and out."""
import contextlib
import ctypes
import os

import numpy as np

DTYPES = ["float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
          "uint64", "bool"]
ON_NAN_KERAS = 2


class Metric(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_double)]


class TensorInfo(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_size_t),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("nbytes", ctypes.c_uint64)]


class Rename(ctypes.Structure):
    _fields_ = [("file_prefix", ctypes.c_char_p), ("model_prefix", ctypes.c_char_p)]


# ckpt_fetch_fn and ckpt_put_fn: memory, offset, bytes, user.
MOVE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)


class Failure(Exception):
    """A call that failed: its status' name and the library's message."""

    def __init__(self, status, message):
        super().__init__(f"{status}: {message}")
        self.status = status


class Lib:
    """The library. `lib("ckpt_wait", session)` calls and checks; `lib.make("ckpt_model_new")` gives the result."""

    def __init__(self, path=None):
        path = path or os.environ.get("CKPT_TEST_LIBRARY")
        if not path:
            raise SystemExit("CKPT_TEST_LIBRARY is not set: run `make test`, or set it to libckpt.so")
        self.c = ctypes.CDLL(os.path.abspath(path))
        for function in ("ckpt_last_error", "ckpt_status_name", "ckpt_path"):
            getattr(self.c, function).restype = ctypes.c_char_p
        self.c.ckpt_should_save.restype = ctypes.c_bool
        for function in ("ckpt_reader_len", "ckpt_reader_groups_len", "ckpt_reader_assets_len", "ckpt_model_skipped_len"):
            getattr(self.c, function).restype = ctypes.c_size_t

    def __call__(self, function, *args):
        status = getattr(self.c, function)(*args)
        if status != 0:
            raise Failure(self.c.ckpt_status_name(status).decode(), self.c.ckpt_last_error().decode())

    def make(self, function, *args, kind=ctypes.c_void_p):
        out = kind()
        self(function, *args, ctypes.byref(out))
        return out

    def model(self, tensors, names=(), config=None, assets=(), metadata=()):
        """A model of {path: array}; names are {group: name}, assets are {name: bytes}, metadata is {key: value}. The arrays
        have to outlive it."""
        model = self.make("ckpt_model_new")
        for path, a in dict(tensors).items():
            shape = (ctypes.c_int64 * a.ndim)(*a.shape)
            strides = (ctypes.c_int64 * a.ndim)(*(s // a.itemsize for s in a.strides))
            self("ckpt_model_add", model, path.encode(), DTYPES.index(str(a.dtype)), ctypes.c_size_t(a.ndim), shape,
                 None if a.flags.c_contiguous else strides, ctypes.c_void_p(a.ctypes.data))
        for group, name in dict(names).items():
            self("ckpt_model_set_name", model, group.encode(), name.encode())
        if config is not None:
            self("ckpt_model_set_config", model, config.encode())
        for name, data in dict(assets).items():
            self("ckpt_model_set_asset", model, name.encode(), data, ctypes.c_size_t(len(data)))
        for key, value in dict(metadata).items():
            self("ckpt_model_set_metadata", model, key.encode(), value.encode())
        return model

    def add_source(self, model, path, dtype, shape, fetch, put=None):
        """Adds a tensor that two functions move, fetch(memory, offset, nbytes, user) and put, that give a status. What
        is returned has to outlive the model."""
        keep = MOVE(fetch), MOVE(put) if put else MOVE()
        self("ckpt_model_add_source", model, path.encode(), DTYPES.index(dtype), ctypes.c_size_t(len(shape)),
             (ctypes.c_int64 * len(shape))(*shape), *keep, None)
        return keep

    def save(self, path, tensors, names=(), config=None, assets=(), metadata=(), **options):
        """Writes a file: as a session does if there are options, else by itself."""
        model = self.model(tensors, names, config, assets, metadata)
        session = None
        try:
            if not options:
                return self("ckpt_model_save", model, os.fspath(path).encode())
            weights_only = ctypes.c_bool(".weights." in os.path.basename(path))
            session = self.session(os.fspath(path), save_weights_only=weights_only, **options)
            self.epoch_end(session, 0)
            self("ckpt_save", session, model)
        finally:
            self.c.ckpt_free(session)
            self.c.ckpt_model_free(model)

    def session(self, template, **options):
        """A session; options by the names of their setters: save_freq=ctypes.c_uint64(3)."""
        o = self.make("ckpt_options_new")
        for name, value in options.items():
            self(f"ckpt_options_set_{name}", o, value)
        try:
            return self.make("ckpt_new", template.encode(), o)
        finally:
            self.c.ckpt_options_free(o)

    def epoch_end(self, session, epoch, **logs):
        metrics = (Metric * len(logs))(*(Metric(k.encode(), v) for k, v in logs.items()))
        self("ckpt_on_epoch_end", session, ctypes.c_uint64(epoch), metrics, ctypes.c_size_t(len(logs)))

    @contextlib.contextmanager
    def reader(self, path):
        reader = self.make("ckpt_reader_open", os.fspath(path).encode())
        try:
            yield reader
        finally:
            self.c.ckpt_reader_free(reader)

    def read(self, path):
        """{path: array} of a checkpoint, checksums verified."""
        import ml_dtypes  # registers bfloat16
        with self.reader(path) as reader:
            tensors = {}
            for i in range(self.c.ckpt_reader_len(reader)):
                info = self.make("ckpt_reader_tensor", reader, ctypes.c_size_t(i), kind=TensorInfo)
                dtype = ml_dtypes.bfloat16 if info.dtype == 3 else DTYPES[info.dtype]
                a = np.empty(info.shape[:info.rank], dtype)
                assert a.nbytes == info.nbytes
                self("ckpt_reader_read", reader, ctypes.c_size_t(i), ctypes.c_void_p(a.ctypes.data),
                     ctypes.c_size_t(a.nbytes))
                tensors[info.path.decode()] = a
            self("ckpt_reader_verify", reader)
            return tensors

    def names(self, path):
        """{group: name} of a checkpoint."""
        with self.reader(path) as reader:
            names = {}
            for i in range(self.c.ckpt_reader_groups_len(reader)):
                group, name = ctypes.c_char_p(), ctypes.c_char_p()
                self("ckpt_reader_group", reader, ctypes.c_size_t(i), ctypes.byref(group), ctypes.byref(name))
                names[group.value.decode()] = name.value.decode()
            return names

    def load(self, path, tensors, flags=0, renames=()):
        """Loads {path: array}, renames being (file_prefix, model_prefix): how many were loaded, and {path: reason} of
        those that were not."""
        model = self.model(tensors)
        try:
            with self.reader(path) as reader:
                list_ = (Rename * len(renames))(*(Rename(*(p.encode() for p in pair)) for pair in renames))
                loaded = self.make("ckpt_reader_load_flags", reader, model, ctypes.c_uint32(flags), list_,
                                   ctypes.c_size_t(len(renames)), kind=ctypes.c_size_t)
            skipped = {}
            for i in range(self.c.ckpt_model_skipped_len(model)):
                of, why = ctypes.c_char_p(), ctypes.c_char_p()
                self("ckpt_model_skipped", model, ctypes.c_size_t(i), ctypes.byref(of), ctypes.byref(why))
                skipped[of.value.decode()] = why.value.decode()
            return loaded.value, skipped
        finally:
            self.c.ckpt_model_free(model)
