"""The same training three times: with Keras' ModelCheckpoint, with libckpt's in its place, and with the saves beside it.

    python train.py [DIRECTORY [UNITS]]

A wide network learns handwritten digits; each epoch's end saves the model, with 2,800 units 100 MB with the optimizer. Printed is how long each
end of an epoch kept the training (what the callback took), and what the best model of the last run is worth when Keras loads it.
"""
import gzip
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
import keras
import numpy as np

import libckpt.keras

EPOCHS = 8


def digits():
    """Rows of 64 pixels, and the digits that they show: those to learn from, and those to judge by."""
    with gzip.open(Path(__file__).resolve().parents[1] / "data/digits.csv.gz", "rt") as file:
        rows = np.loadtxt(file, delimiter=",", dtype="float32")
    x, y = rows[:, :64] / 16, rows[:, 64].astype("int32")
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def network(units):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(units, "relu"), keras.layers.Dropout(0.5),
                              keras.layers.Dense(units, "relu"), keras.layers.Dense(10, "softmax")])
    model.compile(keras.optimizers.Adam(3e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Stopwatch(keras.callbacks.Callback):
    """How long the ends of epochs take another callback."""

    def __init__(self, callback):
        super().__init__()
        self.callback, self.seconds = callback, []

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs=None):
        self.callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.callback.on_epoch_begin(epoch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.callback.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        start = time.perf_counter()
        self.callback.on_epoch_end(epoch, logs)
        self.seconds.append(time.perf_counter() - start)

    def on_train_end(self, logs=None):
        self.callback.on_train_end(logs)


def main(directory="checkpoints", units=2800):
    directory = Path(directory)
    (x, y), judges = digits()
    path = str(directory / "{name}" / "{{epoch:02d}}-{{val_loss:.4f}}.keras")
    # Before:
    before = keras.callbacks.ModelCheckpoint(path.format(name="keras"))
    # After:
    after = libckpt.keras.ModelCheckpoint(path.format(name="libckpt"))
    # And beside the training, keeping the last two and the best:
    beside = libckpt.keras.ModelCheckpoint(path.format(name="beside"), asynchronous=True, keep_last=2, keep_best=1)

    of_keras = None
    for name, callback in (("Keras' callback", before), ("libckpt's, durable", after), ("libckpt's, beside", beside)):
        watch = Stopwatch(callback)
        network(int(units)).fit(x, y, batch_size=64, epochs=EPOCHS, validation_data=judges, verbose=0, callbacks=[watch])
        stall = statistics.median(watch.seconds)
        of_keras = of_keras or stall
        print(f"{name:20} {1e3 * stall:8.1f} ms an epoch, 1/{of_keras / stall:.1f} of Keras'")

    best = sorted((directory / "beside").glob("*.keras"), key=lambda p: p.name.split("-")[1])[0]
    _, accuracy = keras.models.load_model(best).evaluate(*judges, verbose=0)
    print(f"{best.name}: {accuracy:.4f} of the validation rows, as Keras loads it")


if __name__ == "__main__":
    main(*sys.argv[1:])
