"""legacy_training.py DIR: trains, saves through the library as a legacy file, and trains on from it."""
import logging
import os
import sys
import zipfile

logging.disable(logging.WARNING)
import h5py
import keras
import numpy as np
from keras.src.legacy.saving import legacy_h5_format

from capi import Lib
from legacy_models import as_h5, legacy_order


def main(folder):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6, 4)).astype("float32")
    y = x.sum((1, 2))[:, None]
    model = keras.Sequential([keras.layers.Input((6, 4)), keras.layers.GRU(5), keras.layers.BatchNormalization(),
                              keras.layers.Dense(1)])
    model.compile(keras.optimizers.AdamW(1e-2), "mse")
    model.fit(x, y, epochs=2, shuffle=False, verbose=0)
    keras_file, ours = os.path.join(folder, "k.keras"), os.path.join(folder, "ours.h5")
    model.save(keras_file)
    with zipfile.ZipFile(keras_file) as z:
        config = z.read("config.json").decode()
        z.extract("model.weights.h5", folder)
    tensors, names = as_h5(os.path.join(folder, "model.weights.h5"))
    model.save(os.path.join(folder, "k.h5"))
    order = legacy_order(tensors, os.path.join(folder, "k.h5"))
    Lib().save(ours, {path: tensors[path] for path in [*order, *tensors]}, names, config)
    want = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"]

    # load_model builds the optimizer for no variables when the file has its state (Keras 3.15, of its own files too).
    loaded = keras.models.load_model(ours, compile=False)
    loaded.compile(keras.optimizers.AdamW(1e-2), "mse")
    loaded.optimizer.build(loaded.trainable_variables)
    with h5py.File(ours) as f:
        loaded.optimizer.set_weights(legacy_h5_format.load_optimizer_weights_from_hdf5_group(f))
    assert loaded.fit(x, y, epochs=2, shuffle=False, verbose=0).history["loss"] == want


main(sys.argv[1])
