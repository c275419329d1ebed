"""Sessions: the policy and the saves of one training."""
import atexit
import ctypes
import dataclasses
import weakref

from . import _c
from ._c import Handle, Holder, functions, made, text
from .errors import NotFoundError
from .model import octets

LEVELS = ("error", "warn", "info", "debug")
_CHOICES = {
    "mode": ("auto", "min", "max"),
    "async": ("off", "copy", "borrow"),
    "backpressure": ("block", "replace"),
    "backend": ("auto", "buffered", "direct"),
    "durability": ("full", "none"),
    "lock": ("fail", "wait", "off"),
    "on_nan": ("skip", "aside", "keras"),
}
_TEXTS = ("monitor", "save_last")
_PLAIN = ("save_best_only", "save_weights_only", "initial_value_threshold", "min_delta", "verbose", "max_shard_bytes",
          "recycle", "save_every_secs", "overhead_budget", "mtbf", "restore_best", "keep_last", "keep_best", "keep_every",
          "keep_every_secs", "staging_limit", "threads")
OPTIONS = sorted([*_TEXTS, *_PLAIN, *(name for name in _CHOICES if name != "async"), "asynchronous", "save_freq",
                  "save_on_signal"])

_sessions = weakref.WeakSet()


@atexit.register
def _close_all():
    # While there still is an interpreter: the library's threads may hold arrays, and call functions.
    for session in list(_sessions):
        session.close()


@dataclasses.dataclass(frozen=True)
class Resumed:
    """What a training goes on with: the epoch and the batch in it to be run next, from 0; the value to beat, or None; the
    file."""
    epoch: int
    batch: int
    best: float | None
    path: str


class _Handle(Handle):
    """With the functions that the library calls until it has been freed."""
    free = functions["ckpt_free"]
    calls = ()


class Session(Holder):
    """As ckpt.h's ckpt: it decides when a save is due and where it goes, makes it, and knows what is best.

    options are those of ckpt_options_set_*(), by their names: save_best_only=True, keep_last=3, durability="none".
    save_freq is "epoch", "never" or a number of batches; asynchronous is "off", "copy" or "borrow"; save_on_signal is a
    signal, or several. log(level, line) receives the log lines, level being one of LEVELS, and progress(path, done, total)
    how far saves have come, both also from threads of the library's. Any thread may use a session.
    """

    def __init__(self, filepath, *, log=None, progress=None, **options):
        self._raised = []
        calls = [_c.LOG(self._guarded(lambda level, line, _: log(LEVELS[level], line.decode()))) if log else None,
                 _c.PROGRESS(self._guarded(lambda path, done, total, _: progress(path.decode(), done, total)))
                 if progress else None]
        chosen = made(functions["ckpt_options_new"])
        try:
            for name, value in options.items():
                _set(chosen, name, value)
            for name, function in zip(("log", "progress"), calls):
                if function:
                    functions[f"ckpt_options_set_{name}"](chosen, function, None)
            self._handle = made(functions["ckpt_new"], text(filepath), chosen, kind=_Handle)
            self._handle.calls = calls
        finally:
            functions["ckpt_options_free"](chosen)
        _sessions.add(self)
        self._told()

    def on_epoch_begin(self, epoch):
        self._call("ckpt_on_epoch_begin", epoch)

    def on_train_batch_end(self, batch, logs=()):
        """A batch has ended, counted from 0; logs are {metric: number}: whether a save is due."""
        self._call("ckpt_on_train_batch_end", batch, *_metrics(logs))
        return self.should_save

    def on_epoch_end(self, epoch, logs=()):
        """An epoch has ended, counted from 0; logs are {metric: number}: whether a save is due."""
        self._call("ckpt_on_epoch_end", epoch, *_metrics(logs))
        return self.should_save

    def on_train_end(self, model=None):
        """Waits for all saves; with restore_best, loads the best checkpoint into the model."""
        self._call("ckpt_on_train_end", model and model.writable())

    @property
    def should_save(self):
        """Whether the last event has made a save due."""
        return functions["ckpt_should_save"](self.handle)

    @property
    def path(self):
        """Where the save that is due goes, or None."""
        path = functions["ckpt_path"](self.handle)
        return path and path.decode()

    @property
    def preempted(self):
        """Whether one of the signals of save_on_signal has come."""
        return functions["ckpt_preempted"](self.handle)

    def save(self, model):
        """Makes the save that is due. With asynchronous="borrow" the arrays must not change before wait_buffers()."""
        self._call("ckpt_save", model.handle)

    def prepare(self, model):
        """Finds out before the first epoch what would otherwise fail after it."""
        self._call("ckpt_prepare", model.handle)

    def wait_buffers(self):
        """Returns when the arrays of all saves so far may change again."""
        self._call("ckpt_wait_buffers")

    def wait(self):
        """Returns when all saves so far are durable, or have failed."""
        self._call("ckpt_wait")

    def cancel(self):
        """Ends the saves that are being made."""
        self._call("ckpt_cancel")

    def resume(self, model):
        """Loads the newest whole checkpoint into the model and goes on as the session that saved it: a Resumed, or None where
        there is no checkpoint."""
        try:
            info = self._made("ckpt_resume", model.writable(), kind=_c.ResumeInfo)
        except NotFoundError:
            return None
        return Resumed(info.epoch, info.batch, info.best if info.has_best else None, info.path.decode())

    @property
    def best(self):
        """The value to beat, or None."""
        try:
            return self._made("ckpt_best", kind=ctypes.c_double).value
        except NotFoundError:
            return None

    @property
    def best_path(self):
        """The file of the best save, or None."""
        try:
            return self._made("ckpt_best_path", kind=ctypes.c_char_p).value.decode()
        except NotFoundError:
            return None

    def load_best(self, model):
        """Loads the file of best_path into the model."""
        self._call("ckpt_load_best", model.writable())

    @property
    def last_stats(self):
        """What the last save took: bytes, stall_secs, copy_secs, write_secs, sync_secs; None before the first."""
        try:
            stats = self._made("ckpt_last_stats", kind=_c.Stats)
        except NotFoundError:
            return None
        return {field: getattr(stats, field) for field, _ in stats._fields_}

    def set_state(self, key, data):
        """Sets bytes of the trainer's own, which every save has from now on, and resume() brings back."""
        self._call("ckpt_set_state", text(key), *octets(data))

    def get_state(self, key):
        """The bytes under a key, or None."""
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        try:
            self._call("ckpt_get_state", text(key), ctypes.byref(data), ctypes.byref(size))
        except NotFoundError:
            return None
        return ctypes.string_at(data, size.value)

    def close(self):
        """Ends the session; waits for the saves that are being made."""
        super().close()

    def _call(self, function, *arguments):
        try:
            functions[function](self.handle, *arguments)
        finally:
            self._told()

    def _made(self, function, *arguments, kind):
        try:
            return made(functions[function], self.handle, *arguments, kind=kind)
        finally:
            self._told()

    def _guarded(self, function):
        """A function for the library to call, which must not raise: what it does raise is told by the next call."""
        raised = self._raised

        def call(*arguments):
            try:
                function(*arguments)
            except BaseException as e:
                raised[:] = [e]
        return call

    def _told(self):
        if self._raised:
            raise self._raised.pop()


def _set(options, name, value):
    name = {"asynchronous": "async"}.get(name, name)
    if name in _CHOICES:
        if value not in _CHOICES[name]:
            raise ValueError(f"libckpt: {name} is {value!r}: it is to be one of {', '.join(map(repr, _CHOICES[name]))}")
        value = _CHOICES[name].index(value)
    elif name in _TEXTS:
        value = text(value)
    elif name == "save_freq":
        value = {"epoch": 0, "never": 2**64 - 1}.get(value, value)
    elif name != "save_on_signal" and name not in _PLAIN:
        raise TypeError(f"libckpt: a session has no option '{name}'; those that it has are: {', '.join(OPTIONS)}")
    several = name == "save_on_signal" and isinstance(value, (list, tuple, set))
    try:
        for one in value if several else [value]:
            functions[f"ckpt_options_set_{name}"](options, one)
    except ctypes.ArgumentError as e:
        raise TypeError(f"libckpt: {name} is {value!r}: {e}") from None


def _metrics(logs):
    logs = dict(logs or {})
    return (_c.Metric * len(logs))(*((text(name), float(value)) for name, value in logs.items())), len(logs)
