"""Keras loads the checkpoint that digits.cpp found best, and has to predict what digits.cpp predicted.

    check.py PREDICTIONS [DATA.csv.gz]

PREDICTIONS is what `digits --predictions` wrote: the checkpoint's name, then a row of probabilities for each digit.
"""
import os
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import keras
import numpy as np

TOLERANCE = 1e-5  # float32, summed in another order


def load(checkpoint):
    """The model: from a .keras file as a whole, from a .weights.h5 into one that is built here."""
    if checkpoint.endswith(".keras"):
        return keras.models.load_model(checkpoint)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, "relu", name="dense"),
                              keras.layers.Dense(10, "softmax", name="dense_1")], name="digits")
    model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy", ["accuracy"])
    model.optimizer.build(model.trainable_variables)
    model.load_weights(checkpoint)
    return model


def restored(model, checkpoint):
    """How many of the optimizer's variables are those of the file; a .keras file of libckpt is an HDF5 file too."""
    with h5py.File(checkpoint) as file:
        saved = file["optimizer/vars"]
        return sum(str(i) in saved and np.array_equal(saved[str(i)], variable)
                   for i, variable in enumerate(model.optimizer.variables))


def main(predictions, data=Path(__file__).parents[1] / "data/digits.csv.gz"):
    with open(predictions) as file:
        checkpoint = file.readline().removeprefix("# ").rstrip("\n")
        table = np.loadtxt(file, delimiter=",", ndmin=2)
    rows, ours = table[:, 0].astype(int), table[:, 1:].astype("float32")
    digits = np.loadtxt(data, delimiter=",", dtype="float32")[rows]
    pixels, labels = digits[:, :-1] / 16, digits[:, -1]

    model = load(checkpoint)
    theirs = model.predict(pixels, verbose=0)
    variables = len(model.optimizer.variables)
    same_variables = restored(model, checkpoint)
    same_digits = int(np.sum(ours.argmax(1) == theirs.argmax(1)))
    difference = float(np.max(np.abs(ours - theirs)))

    print(f"Keras {keras.__version__} ({keras.backend.backend()}) loaded {checkpoint}")
    print(f"  accuracy on {len(rows)} digits: {np.mean(ours.argmax(1) == labels):.4f} in C++, "
          f"{np.mean(theirs.argmax(1) == labels):.4f} in Keras")
    print(f"  same digit predicted: {same_digits} of {len(rows)}; probabilities differ by {difference:.1e} at most")
    print(f"  optimizer variables restored: {same_variables} of {variables}, "
          f"after {int(model.optimizer.iterations)} steps")
    if same_digits != len(rows) or not difference <= TOLERANCE or same_variables != variables:
        sys.exit("check.py: Keras and C++ do not agree")
    print("Keras and C++ agree")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(*sys.argv[1:])
