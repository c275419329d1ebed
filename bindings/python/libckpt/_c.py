"""The shared library and its functions, as ckpt.h declares them."""
import ctypes
import ctypes.util
import operator
import os
import pathlib

from .errors import raise_for

VERSION = "0.1.0"

# What each function gives, and what it takes. h: a handle; s: text; i: an enum or an int; b, u, U, z, d: bool, uint32_t,
# uint64_t, size_t, double; p: any other pointer; v: nothing. A result i is a status, and checked.
PROTOTYPES = """
    ckpt_last_error s:              ckpt_last_os_error n:            ckpt_status_name s:i            ckpt_version u:
    ckpt_options_new i:p            ckpt_options_free v:h
    ckpt_options_set_monitor i:hs   ckpt_options_set_mode i:hi       ckpt_options_set_save_best_only i:hb
    ckpt_options_set_save_weights_only i:hb                          ckpt_options_set_save_freq i:hU
    ckpt_options_set_initial_value_threshold i:hd                    ckpt_options_set_min_delta i:hd
    ckpt_options_set_verbose i:hi   ckpt_options_set_log i:hpp       ckpt_options_set_max_shard_bytes i:hU
    ckpt_options_set_recycle i:hb   ckpt_options_set_lock i:hi       ckpt_options_set_save_every_secs i:hd
    ckpt_options_set_save_on_signal i:hi                             ckpt_options_set_overhead_budget i:hd
    ckpt_options_set_mtbf i:hd      ckpt_options_set_on_nan i:hi     ckpt_options_set_restore_best i:hb
    ckpt_options_set_keep_last i:hU ckpt_options_set_keep_best i:hU  ckpt_options_set_keep_every i:hU
    ckpt_options_set_keep_every_secs i:hd                            ckpt_options_set_save_last i:hs
    ckpt_options_set_async i:hi     ckpt_options_set_backpressure i:hi
    ckpt_options_set_staging_limit i:hU                              ckpt_options_set_staging_allocator i:hppp
    ckpt_options_set_backend i:hi   ckpt_options_set_durability i:hi ckpt_options_set_threads i:hu
    ckpt_options_set_progress i:hpp
    ckpt_new i:shp                  ckpt_free v:h                    ckpt_preempted b:h              ckpt_should_save b:h
    ckpt_on_epoch_begin i:hU        ckpt_on_train_batch_end i:hUpz   ckpt_on_epoch_end i:hUpz        ckpt_on_train_end i:hh
    ckpt_path s:h                   ckpt_save i:hh                   ckpt_wait_buffers i:h           ckpt_wait i:h
    ckpt_cancel i:h                 ckpt_best i:hp                   ckpt_best_path i:hp             ckpt_load_best i:hh
    ckpt_prepare i:hh               ckpt_last_stats i:hp             ckpt_resume i:hhp
    ckpt_set_state i:hspz           ckpt_get_state i:hspp
    ckpt_model_new i:p              ckpt_model_free v:h              ckpt_model_add i:hsizppp        ckpt_model_set_name i:hss
    ckpt_model_set_data i:hsp       ckpt_model_set_config i:hs       ckpt_model_set_asset i:hspz
    ckpt_model_set_metadata i:hss   ckpt_model_save i:hs             ckpt_model_skipped_len z:h      ckpt_model_skipped i:hzpp
    ckpt_model_add_source i:hsizpppp                                 ckpt_model_own i:hspp
    ckpt_reader_open i:sp           ckpt_reader_open_flags i:sup     ckpt_reader_free v:h            ckpt_reader_len z:h
    ckpt_reader_find i:hsp          ckpt_reader_tensor i:hzp         ckpt_reader_read i:hzpz         ckpt_reader_verify i:h
    ckpt_reader_config i:hp         ckpt_reader_metadata i:hp        ckpt_reader_state i:hp          ckpt_reader_name i:hsp
    ckpt_reader_groups_len z:h      ckpt_reader_group i:hzpp         ckpt_reader_assets_len z:h
    ckpt_reader_asset_name i:hzp    ckpt_reader_asset i:hspp         ckpt_reader_load i:hh
    ckpt_reader_load_flags i:hhupzp ckpt_convert i:ss
"""


class Handle(ctypes.c_void_p):
    """What the library made, freed by `free` when nobody has it any more: a call that another thread is making does."""

    def __del__(self):
        if self:
            self.free(self)

    def __reduce_ex__(self, protocol):
        raise TypeError("libckpt: sessions, models and readers can be neither pickled nor deep-copied")


class Holder:
    """What has a handle until it is closed. Functions take it for that; a shallow copy has the same one."""
    _handle = None

    @property
    def handle(self):
        """Itself, which goes into errors' tracebacks in place of the handle, and must not keep that from being freed there."""
        if self._handle is None:
            raise ValueError(f"libckpt: this {type(self).__name__} is closed")
        return self

    @classmethod
    def from_param(cls, value):
        return value._handle if isinstance(value, Holder) else value

    def close(self):
        self._handle = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _whole(kind):
    """The type of an argument that is a whole number: NumPy's, too, but none that C would wrap around."""
    highest = 2 ** (8 * ctypes.sizeof(kind)) - 1

    class Whole(kind):
        @classmethod
        def from_param(cls, value):
            value = operator.index(value)
            if not 0 <= value <= highest:
                raise ValueError(f"{value} is not from 0 to {highest}")
            return kind(value)
    return Whole


TYPES = {"h": ctypes.c_void_p, "p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int, "n": ctypes.c_int,
         "b": ctypes.c_bool, "u": ctypes.c_uint32, "U": ctypes.c_uint64, "z": ctypes.c_size_t, "d": ctypes.c_double,
         "v": None}
ARGUMENTS = {**TYPES, "h": Holder, **{letter: _whole(TYPES[letter]) for letter in "uUz"}}

LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
PROGRESS = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_void_p)


class Metric(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("value", ctypes.c_double)]


class Stats(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint64), ("stall_secs", ctypes.c_double), ("copy_secs", ctypes.c_double),
                ("write_secs", ctypes.c_double), ("sync_secs", ctypes.c_double)]


class TensorInfo(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("dtype", ctypes.c_int), ("rank", ctypes.c_size_t),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("nbytes", ctypes.c_uint64)]


class Rename(ctypes.Structure):
    _fields_ = [("file_prefix", ctypes.c_char_p), ("model_prefix", ctypes.c_char_p)]


class ResumeInfo(ctypes.Structure):
    _fields_ = [("epoch", ctypes.c_uint64), ("batch", ctypes.c_uint64), ("has_best", ctypes.c_bool),
                ("best", ctypes.c_double), ("path", ctypes.c_char_p)]


def _open():
    """The library that LIBCKPT_LIBRARY names, else the one of this package's wheel, else the installed one."""
    named = os.environ.get("LIBCKPT_LIBRARY")
    bundled = pathlib.Path(__file__).with_name("libckpt.so")
    if named:
        path = os.path.abspath(named)
    elif bundled.exists():
        path = str(bundled)
    else:
        path = ctypes.util.find_library("ckpt") or f"libckpt.so.{VERSION.split('.')[0]}"
    try:
        return ctypes.CDLL(path)
    except OSError as e:
        raise ImportError(f"libckpt: the shared library is missing: {e}. Set LIBCKPT_LIBRARY to libckpt.so, or install it "
                          "(make install) where the system's loader looks.") from None


def _declared(library):
    functions = {}
    words = PROTOTYPES.split()
    for name, prototype in zip(words[::2], words[1::2]):
        result, arguments = prototype.split(":")
        try:
            function = getattr(library, name)
        except AttributeError:
            raise ImportError(f"libckpt: {library._name} has no {name}(): it is of another version than this package, "
                              f"{VERSION}") from None
        function.restype = TYPES[result]
        function.argtypes = [ARGUMENTS[argument] for argument in arguments]
        if result == "i":
            function.errcheck = _checked
        functions[name] = function
    return functions


def _checked(status, function, _):
    if status:
        raise_for(status, library.ckpt_last_error().decode(), library.ckpt_last_os_error())


library = _open()
functions = _declared(library)


def made(function, *arguments, kind=ctypes.c_void_p):
    """What a function gives through its last pointer."""
    out = kind()
    function(*arguments, ctypes.byref(out))
    return out


def text(value):
    """Text, or a path, as the library takes it."""
    data = os.fsdecode(value).encode()
    if b"\0" in data:
        raise ValueError(f"libckpt: {value!r} has a null character, with which it would end")
    return data
