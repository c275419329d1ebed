"""legacy_files.py save DIR: the models in Keras' formats, and a line of JSON for each: its name, and the paths of its
layers' weights in the order of the legacy format. legacy_files.py check DIR: Keras loads what was made of these."""
import glob
import json
import logging
import os
import sys
import warnings
import zipfile

os.environ.setdefault("KERAS_BACKEND", "numpy")
logging.disable(logging.WARNING)
warnings.simplefilter("ignore")
import keras
import numpy as np

from legacy_models import MODELS, as_h5, build, legacy_order


def main(command, folder):
    for make in MODELS:
        path = os.path.join(folder, make.__name__)
        if command == "save":
            model = build(make)
            model.save(path + ".keras")
            model.save_weights(path + ".weights.h5")
            model.save(path + ".h5")
            wanted = path + ".h5"
            if "float8" in path:  # Keras does not load its own: it has another order once the model was loaded.
                wanted = path + ".loaded.h5"
                loaded(path + ".keras").save(wanted, include_optimizer=False)
            order = legacy_order(as_h5(path + ".weights.h5")[0], wanted)
            print(json.dumps({"name": make.__name__, "order": order}))
        else:
            check(path)
    for path in glob.glob(os.path.join(folder, "tf-*.keras")):
        legacy = os.path.join(os.path.dirname(__file__), "../golden/legacy/good", os.path.basename(path)[:-len("keras")] + "h5")
        same(keras.models.load_model(legacy, compile=False).weights, loaded(path).weights, path)


def check(path):
    want = loaded(path + ".keras")
    same(want.weights, loaded(path + ".ours.h5").weights, path)
    back = loaded(path + ".back.keras")
    same(want.weights, back.weights, path)
    same(want.optimizer.variables, back.optimizer.variables, path)
    if not path.endswith("branches"):  # which takes its inputs by name
        x = [np.ones((2, *i.shape[1:]), i.dtype) for i in want.inputs]
        x = x if len(x) > 1 else x[0]
        outputs = [keras.tree.flatten(model(x)) for model in (want, back)]
        assert all(np.array_equal(a, b) for a, b in zip(*outputs, strict=True)), path


def loaded(path):
    keras.utils.clear_session()
    return keras.models.load_model(path)


def same(a, b, path):
    for x, y in zip(a, b, strict=True):
        x, y = np.asarray(x.value), np.asarray(y.value)
        assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), path


main(*sys.argv[1:])
