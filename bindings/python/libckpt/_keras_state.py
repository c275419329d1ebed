"""The state of a Keras model, as Keras' own saving and loading walk it: in Keras' own arrays wherever they can be had."""
import contextlib
import operator
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
        self.names, self.assets = {}, {}
        self._model, self._groups, visited = model, {}, set()
        optimizer = getattr(model, "optimizer", None)
        if _gives_copies(optimizer):
            visited.add(id(optimizer))
            self.names["optimizer"] = optimizer.name
            self._groups["optimizer"] = {str(i): variable for i, variable in enumerate(optimizer.variables)}
        with tempfile.TemporaryDirectory() if with_assets else contextlib.nullcontext() as directory:
            saving_lib._save_state(model, self, directory and _Assets(directory), "", visited)
            if directory:
                self.assets = {str(file.relative_to(directory)): file.read_bytes()
                               for file in sorted(pathlib.Path(directory).rglob("*")) if file.is_file()}
        self.values = {f"{path}/vars/{key}".removeprefix("/"): value
                       for path, group in self._groups.items() for key, value in group.items()}
        self._variables = _variables(model)

    @property
    def is_live(self):
        """Whether it will do for later saves, too: where all are variables, which know what is current."""
        return (not self.assets and all(isinstance(value, keras.Variable) for value in self.values.values())
                and not any(map(_saves_itself, self._model._flatten_layers())))

    def is_current(self):
        """Whether the model still has the variables that it had."""
        variables = _variables(self._model)
        return len(variables) == len(self._variables) and all(map(operator.is_, variables, self._variables))

    def make(self, path, metadata=None):
        if metadata:
            self.names[path] = metadata["name"]
        return self._groups.setdefault(path, {})

    def __bool__(self):
        return True

    def arrays(self):
        """{path: array}. With jax nobody changes them as long as they are held."""
        return {path: _array(value) for path, value in self.values.items()}


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


def _variables(model):
    """All that a model and its optimizer have: others are there when a layer has come, or compile(), quantize(), LoRA."""
    return [*model.variables, *getattr(getattr(model, "optimizer", None), "variables", ())]


def _saves_itself(layer):
    """Whether the user has written how, who may put in other things the next time."""
    methods = (getattr(layer, name, None) for name in ("save_own_variables", "save_assets"))
    return any(method and not method.__module__.startswith("keras.") for method in methods)


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
