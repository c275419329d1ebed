"""Trainings with libckpt.keras.ModelCheckpoint: KERAS_BACKEND=jax drop_in_training.py PART DIRECTORY."""
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np

import libckpt.keras

EPOCHS = 6


def model(width=8):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(width, "relu"), keras.layers.Dropout(0.5),
                              keras.layers.BatchNormalization(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-2), "mse", metrics=["mae"])
    return model


def fit(model, *callbacks, epochs=EPOCHS):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((32, 5)).astype("f"), rng.standard_normal((32, 1)).astype("f")
    return model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, validation_split=0.25, verbose=0, callbacks=callbacks)


def state(model):
    return [np.asarray(v.value).tobytes() for v in [*model.weights, *model.optimizer.variables]]


class At(keras.callbacks.Callback):
    """Does something at the end of an epoch, after the callbacks before it."""

    def __init__(self, epoch, do):
        super().__init__()
        self.epoch, self.do = epoch, do

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            self.do(self)


def resumable(run):
    return libckpt.keras.ModelCheckpoint(f"{run}/{{epoch:02d}}-{{val_loss:.9f}}.keras", resume=True, asynchronous=True,
                                         keep_last=2, keep_best=1)


def killed(directory):
    """A training that does not live to see its fifth epoch."""
    checkpoint = resumable("cut")

    def die(callback):
        checkpoint.session.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    fit(model(), checkpoint, At(3, die))


def resume(directory):
    """A training that was killed goes on as one that was not: weights, optimizer, dropout, best, files."""
    whole = model()
    uninterrupted = resumable("whole")
    fit(whole, uninterrupted)
    assert uninterrupted.resumed is None

    dead = subprocess.run([sys.executable, __file__, "killed", directory])
    assert dead.returncode == -signal.SIGKILL
    rest = model()
    keras.utils.set_random_seed(5)
    resumed = resumable("cut")
    history = fit(rest, resumed)
    assert resumed.resumed.epoch == 4 and history.epoch == [4, 5], resumed.resumed
    assert state(rest) == state(whole)
    names = [sorted(p.name for p in Path(run).glob("*.keras")) for run in ("whole", "cut")]
    assert names[0] == names[1] and 2 <= len(names[0]) <= 3, names
    assert Path(resumed.best_path).name == Path(uninterrupted.best_path).name
    # A second fit() begins at its first epoch, also after one that had nothing left to do.
    assert fit(rest, resumed, epochs=1).epoch == [0]
    finished = model()
    assert fit(finished, resumable("whole")).epoch == []
    assert fit(finished, epochs=1).epoch == [0]


def borrow(directory):
    """What is saved in the background is what the variables were, though the training goes on; and then it is let go."""
    from libckpt import model as held
    wide, values = model(20_000), {}

    class Remember(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            values[len(values) + 1] = np.array(self.model.layers[0].kernel.value)
    names = iter(range(1, 100))
    checkpoint = libckpt.keras.ModelCheckpoint("{n}.weights.h5", save_weights_only=True, save_freq=1, asynchronous=True)

    class Count(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            checkpoint.on_train_batch_end(batch, {**logs, "n": next(names)})
    checkpoint.set_model(wide)
    checkpoint.on_train_begin()
    fit(wide, Remember(), Count(), epochs=5)
    checkpoint.on_train_end()
    assert len(values) == 15
    for n, value in values.items():
        assert (libckpt.Reader(f"{n}.0.weights.h5")["layers/dense/vars/0"] == value).all(), n
    assert not held._held


def restore_best(directory):
    """At the end the model is what it was when it was best."""
    best = model()
    checkpoint = libckpt.keras.ModelCheckpoint("{epoch}.keras", save_best_only=True, restore_best=True)
    fit(best, checkpoint, At(EPOCHS - 1, lambda callback: best.layers[0].kernel.assign(np.zeros((5, 8), "f"))))
    restored = keras.models.load_model(checkpoint.best_path)
    assert state(best) == state(restored) and np.asarray(best.layers[0].kernel.value).any()


def stop(directory):
    """A SIGTERM has the next batch end save, and the training end."""
    checkpoint = libckpt.keras.ModelCheckpoint("m.weights.h5", save_weights_only=True, save_freq="never",
                                               save_on_signal=signal.SIGTERM, resume=True)
    stopped = model()
    history = fit(stopped, checkpoint, At(1, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert history.epoch == [0, 1, 2] and Path("m.weights.h5").exists(), history.epoch
    assert checkpoint.session.preempted


def full_disk(directory):
    """A save in the background that finds no room is told, by the next one or at the end of the training."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
    checkpoint = libckpt.keras.ModelCheckpoint("m.weights.h5", save_weights_only=True, asynchronous=True)
    try:
        fit(model(20_000), checkpoint)
    except OSError as e:
        assert isinstance(e, libckpt.Error) and e.errno == errno.EFBIG and "m.weights.h5" in str(e), e
    else:
        raise AssertionError("nobody told")
    assert not os.path.exists("m.weights.h5")


def batches(directory):
    """save_freq in batches, best only: by the loss, and the state is that of the batch."""
    trained, seen = model(), {}
    checkpoint = libckpt.keras.ModelCheckpoint("{epoch}-{batch}.keras", monitor="loss", save_best_only=True, save_freq=1)

    class Seen(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen[checkpoint.best_path] = state(self.model)
    fit(trained, checkpoint, Seen(), epochs=2)
    path, first = next(iter(seen.items()))
    assert state(keras.models.load_model(path)) == first


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    globals()[sys.argv[1]](sys.argv[2])
