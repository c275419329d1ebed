"""The state of a Keras model, as Keras' own saving and loading walk it: in Keras' own arrays wherever they can be had."""
import contextlib
import os
import pathlib
import tempfile

import keras
import numpy as np
from keras.src.saving import saving_lib

from .model import Model

BACKEND = keras.backend.backend()


class Walk(saving_lib.H5IOStore):
    """What Keras would write: the variables by their paths, the names of groups, the assets.

    Keras takes this for a file: it asks for a group, and puts the variables into it.
    """

    def __init__(self, model, with_assets=False):
        self.values, self.names, self.assets = {}, {}, {}
        visited = set()
        optimizer = getattr(model, "optimizer", None)
        if _gives_copies(optimizer):
            visited.add(id(optimizer))
            self.names["optimizer"] = optimizer.name
            self.values = {f"optimizer/vars/{i}": variable for i, variable in enumerate(optimizer.variables)}
        with tempfile.TemporaryDirectory() if with_assets else contextlib.nullcontext() as directory:
            saving_lib._save_state(model, self, directory and _Assets(directory), "", visited)
            if directory:
                self.assets = {str(file.relative_to(directory)): file.read_bytes()
                               for file in sorted(pathlib.Path(directory).rglob("*")) if file.is_file()}

    @property
    def is_live(self):
        """Whether it will do for the next save, too: where all are variables, which know what is current."""
        return not self.assets and all(isinstance(value, keras.Variable) for value in self.values.values())

    def make(self, path, metadata=None):
        if metadata:
            self.names[path] = metadata["name"]
        return _Group(self.values, f"{path}/vars/" if path else "vars/")

    def __bool__(self):
        return True

    def arrays(self):
        """{path: array}. With jax nobody changes them as long as they are held."""
        return {path: _array(value) for path, value in self.values.items()}


class _Group:
    """What a layer takes for its group in the file."""

    def __init__(self, values, prefix):
        self._values, self._prefix = values, prefix

    def __setitem__(self, key, value):
        self._values[self._prefix + key] = value

    def __getitem__(self, key):
        return self._values[self._prefix + key]

    def __delitem__(self, key):
        del self._values[self._prefix + key]

    def __contains__(self, key):
        return self._prefix + key in self._values


class _Assets(saving_lib.DiskIOStore):
    """A directory for each layer that has assets."""

    def __init__(self, directory):
        self._directory = directory

    def make(self, path):
        path = os.path.join(self._directory, path)
        os.makedirs(path, exist_ok=True)
        return path


class _Filled(saving_lib.H5IOStore):
    """Arrays that a load has filled, which Keras takes for a file."""

    def __init__(self, arrays):
        self._groups = {}
        for path, array in arrays.items():
            group, _, key = path.rpartition("/")
            self._groups.setdefault(group.removesuffix("vars").removesuffix("/"), {})[key] = array

    def get(self, path):
        return self._groups.get(path, {})

    def has_path(self, path):
        return any(group == path or group.startswith(f"{path}/") for group in self._groups)

    def __bool__(self):
        return True


def configuration(model):
    """Keras' config.json, compile() and all."""
    return saving_lib._serialize_model_as_json(model)[0]


def load(model, into):
    """Has into(Model) fill arrays like the model's own, and gives them to Keras, unless it gives None."""
    arrays = {path: np.empty(array.shape, array.dtype) for path, array in Walk(model).arrays().items()}
    with Model(arrays) as tensors:
        loaded = into(tensors)
    if loaded is not None:
        saving_lib._load_state(model, _Filled(arrays), None, "", visited_saveables=set())
    return loaded


def seeds(model):
    """The variables of the random numbers that a model draws, in order: no file of Keras' has them."""
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]


def _gives_copies(optimizer):
    """Whether it is Keras' own way to save an optimizer, which copies every variable first."""
    base = keras.optimizers.Optimizer
    return (isinstance(optimizer, base) and type(optimizer).save_own_variables is base.save_own_variables
            and not hasattr(optimizer, "inner_optimizer"))


def _array(value):
    if isinstance(value, keras.Variable):
        value = value.value
    if BACKEND == "jax":
        import jax
        if isinstance(value, jax.Array):
            # Never changes; and while NumPy looks at it, no step of the training takes its memory.
            return np.asarray(value)
        # A layer's own idea of its state, which it may write to while a save reads it in the background.
        return np.array(value)
    return np.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else keras.ops.convert_to_numpy(value)
