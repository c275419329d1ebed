"""Keras' ModelCheckpoint, with libckpt behind it."""
import os
import warnings

import keras
import numpy as np
from keras.src.utils import io_utils

from . import _keras_state
from .errors import TemplateError
from .model import Model
from .session import OPTIONS, Session

# What the callback itself decides about.
_OWN = {"monitor", "mode", "save_best_only", "save_weights_only", "save_freq", "initial_value_threshold", "verbose"}


class ModelCheckpoint(keras.callbacks.Callback):
    """A drop-in for keras.callbacks.ModelCheckpoint: its arguments, decisions, texts and file names. Every file is written
    by libckpt: as a whole or not at all, durably, with checksums, and readable by Keras as its own.

    filepath, monitor, verbose, save_best_only, save_weights_only, mode, save_freq, initial_value_threshold: as Keras'. With
    save_weights_only, filepath may also end in ".weights.json" (shards) or ".safetensors"; save_freq may be "never", too.

    asynchronous: saves are made beside the training. With jax they stall it for nothing, since its arrays never change; with
        the other backends for one copy. A failure is raised by the next save, or at the end of the training.
    resume: fit() goes on from the newest checkpoint that stands, if there is one: weights, the optimizer, the best value, the
        random numbers that the model draws, the epoch. (One that was made within an epoch goes on at that epoch's beginning,
        as keras.callbacks.BackupAndRestore does.) `resumed` says then from where.
    stop_on_signal: whether the training ends after the save that a signal of save_on_signal has made due.
    options: libckpt.Session's: min_delta, keep_last, keep_best, keep_every, keep_every_secs, save_last, save_every_secs,
        save_on_signal, overhead_budget, mtbf, restore_best, on_nan, durability, lock, max_shard_bytes, ...

    Otherwise than in Keras, a NaN of the monitored metric is never saved (on_nan="keras" has it Keras' way), and best-only
    works with save_freq in batches, too. A value of the logs that is no number is no key of filepath.
    """

    def __init__(self, filepath, monitor="val_loss", verbose=0, save_best_only=False, save_weights_only=False, mode="auto",
                 save_freq="epoch", initial_value_threshold=None, *, asynchronous=False, resume=False, stop_on_signal=True,
                 **options):
        super().__init__()
        if mode not in ("auto", "min", "max"):
            warnings.warn(f"ModelCheckpoint mode '{mode}' is unknown, fallback to auto mode.", stacklevel=2)
            mode = "auto"
        if save_freq not in ("epoch", "never") and not isinstance(save_freq, int):
            raise ValueError(f"Unrecognized save_freq: {save_freq}. Expected save_freq are 'epoch' or integer values")
        for name in options:
            if name not in OPTIONS or name in _OWN or name == "asynchronous":
                raise TypeError(f"ModelCheckpoint() has no argument '{name}'")
        self.filepath = os.fspath(filepath)
        self.monitor, self.mode = monitor, mode
        self.save_best_only, self.save_weights_only, self.save_freq = save_best_only, save_weights_only, save_freq
        self.verbose = verbose
        self.resumed = None
        self._threshold = initial_value_threshold
        self._asynchronous, self._resume, self._stop_on_signal = asynchronous, resume, stop_on_signal
        self._options = options
        self._session = self._walk = None
        self._log = _Log()
        self._epoch = 0
        self._hears_batches = isinstance(save_freq, int) or any(
            name in options for name in ("save_every_secs", "save_on_signal", "overhead_budget", "mtbf"))
        self._check_ending()

    def _check_ending(self):
        if self.save_weights_only:
            if not self.filepath.endswith((".weights.h5", ".weights.json", ".safetensors")):
                raise ValueError("When using `save_weights_only=True` in `ModelCheckpoint`, the filepath provided must end in "
                                 f"`.weights.h5` (Keras weights format). Received: filepath={self.filepath}")
        elif not self.filepath.endswith((".keras", ".h5")):
            raise ValueError("The filepath provided must end in `.keras` (Keras model format). Received: "
                             f"filepath={self.filepath}")
        elif self.filepath.endswith(".weights.h5"):
            raise ValueError("A filepath that ends in `.weights.h5` is one of weights alone: say `save_weights_only=True`, or "
                             f"choose another ending. Received: filepath={self.filepath}")

    @property
    def best(self):
        """The value to beat, or None. It can be set before the first event of a training."""
        return self._threshold if self._session is None else self._session.best

    @best.setter
    def best(self, value):
        if self._session is not None:
            raise AttributeError("best is what the saves have made it: set it before the training, or go on with resume=True")
        self._threshold = value

    @property
    def best_path(self):
        """The file of the best save so far that stands, or None."""
        return self._session and self._session.best_path

    @property
    def session(self):
        """The libckpt.Session; None before the first event of a training."""
        return self._session

    def set_model(self, model):
        super().set_model(model)
        self._walk = None

    def on_train_begin(self, logs=None):
        self._walk = None
        if self._resume and self._session is None:
            if not self.model.built:
                # Told in the first training, not in the one that would go on.
                raise ValueError("ModelCheckpoint(resume=True) needs a model that is built when fit() begins: give it an "
                                 "Input, or call model.build() or the model itself before.")
            self._open()
            optimizer = getattr(self.model, "optimizer", None)
            if optimizer is not None and not optimizer.built:
                optimizer.build(self.model.trainable_variables)
            self.resumed = _keras_state.load(self.model, self._session.resume)
            if self.resumed:
                for i, seed in enumerate(_keras_state.seeds(self.model)):
                    state = self._session.get_state(f"keras/seed/{i}")
                    if state:
                        seed.assign(np.frombuffer(state, keras.backend.standardize_dtype(seed.dtype)).reshape(seed.shape))
                self.model._initial_epoch = self.resumed.epoch

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        self._begin_where_told()
        if self._session is not None:
            self._session.on_epoch_begin(epoch)

    def _begin_where_told(self):
        """Has the next fit() do so: this one has taken the epoch that it goes on from."""
        if self.resumed:
            self._model._initial_epoch = None

    def on_train_batch_end(self, batch, logs=None):
        if self._hears_batches:
            self._event("on_train_batch_end", batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._event("on_epoch_end", epoch, logs)

    def on_train_end(self, logs=None):
        if self._session is None:
            return
        self._begin_where_told()
        if self._options.get("restore_best"):
            _keras_state.load(self.model, lambda tensors: self._session.on_train_end(tensors) or self._session.best_path)
        else:
            self._session.on_train_end()

    def _event(self, event, index, logs):
        if self._session is None:
            self._open()
            self._session.on_epoch_begin(self._epoch)
        try:
            due = getattr(self._session, event)(index, self._numbers(logs))
        except TemplateError as e:
            raise KeyError(str(e).partition(": ")[2]) from None
        if due:
            self._save()
        if self._stop_on_signal and self._session.preempted:
            self._model.stop_training = True

    def _open(self):
        """The session, as late as this since only now Keras knows what the metrics are."""
        asynchronous = "off"
        if self._asynchronous:
            asynchronous = "borrow" if _keras_state.BACKEND == "jax" else "copy"
        # With Keras, 0 and less are every batch, as 1 is.
        save_freq = max(self.save_freq, 1) if isinstance(self.save_freq, int) else self.save_freq
        options = {name: value for name, value in self._options.items() if value is not None}
        if self._threshold is not None:
            options["initial_value_threshold"] = self._threshold
        self._session = Session(
            self.filepath, log=self._log, monitor=self.monitor, mode=self._direction(), verbose=self.verbose > 0,
            save_best_only=self.save_best_only, save_weights_only=self.save_weights_only, save_freq=save_freq,
            asynchronous=asynchronous, **options)

    def _direction(self):
        """What is better, as Keras finds it out where nobody says it."""
        if self.mode != "auto":
            return self.mode
        name = self.monitor.removeprefix("val_")
        direction = "min" if name == "loss" else None
        for group in getattr(self.model, "metrics", ()):
            for metric in getattr(group, "metrics", ()):
                if metric.name == name and hasattr(metric, "_direction"):
                    direction = "max" if metric._direction == "up" else "min"
        if direction is None:
            metrics = getattr(self.model, "_compile_metrics", None)
            if metrics is not None and not metrics.built:
                # With TensorFlow there are none before the first batch, when a training is resumed: by the name, then.
                return "auto"
            raise ValueError(
                f"ModelCheckpoint callback received monitor={self.monitor}, but Keras isn't able to automatically determine "
                "whether that metric should be maximized or minimized. Pass `mode='max'` in order to monitor based on the "
                "highest metric value, or pass `mode='min'` in order to use the lowest value.")
        return direction

    def _numbers(self, logs):
        numbers, self._log.unsaid = {}, None
        for name, value in (logs or {}).items():
            if getattr(value, "shape", ()) != ():
                if name == self.monitor and self.save_best_only:
                    warnings.warn("Can save best model only when `monitor` is a scalar value. Received: "
                                  f"{value}. Falling back to `save_best_only=False`.")
                    self._log.unsaid = f"Can save best model only with {name} available."
                continue
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError, OverflowError):
                continue
        return numbers

    def _save(self):
        model = self.model
        path = self._session.path
        if os.path.isdir(path):
            raise OSError("Please specify a non-directory filepath for ModelCheckpoint. Filepath used is an existing "
                          f"directory: {path}")
        whole = not self.save_weights_only
        walk = self._walk
        if walk is None or not walk.is_current():
            walk = _keras_state.Walk(model, with_assets=whole)
            self._walk = walk if walk.is_live else None
        for i, seed in enumerate(_keras_state.seeds(model)):
            self._session.set_state(f"keras/seed/{i}", keras.ops.convert_to_numpy(seed).tobytes())
        with Model(walk.arrays()) as tensors:
            for group, name in walk.names.items():
                tensors.set_name(group, name)
            if whole:
                tensors.set_config(_keras_state.configuration(model))
            for name, data in walk.assets.items():
                tensors.set_asset(name, data)
            self._session.save(tensors)


class _Log:
    """Says what the library has to say as Keras says such things."""
    unsaid = None

    def __call__(self, level, line):
        if level == "info":
            io_utils.print_msg(f"\n{line}")
        elif level in ("warn", "error") and line != self.unsaid:
            warnings.warn(line, stacklevel=2)
