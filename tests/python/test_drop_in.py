"""libckpt.keras.ModelCheckpoint in the place of Keras' callback: its decisions, its texts, its files, trainings that go on."""
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "numpy")
import keras
import numpy as np
import pytest
from keras.src.callbacks import model_checkpoint as of_keras

import in_jax
import libckpt.keras
import models
import policy_oracle
from hdf5 import assert_same, contents

HERE = Path(__file__).parent


def test_keras_own_tests_pass(tmp_path):
    """The file of Keras' tests of its callback, as it is installed, with ours in its place: all of it, unchanged."""
    (tmp_path / "drop_in.py").write_text(
        "import keras.src.callbacks, libckpt.keras\n"
        "keras.src.callbacks.ModelCheckpoint = libckpt.keras.ModelCheckpoint\n")
    test = Path(keras.__file__).parent / "src/callbacks/model_checkpoint_test.py"
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    run = subprocess.run([sys.executable, "-m", "pytest", "-p", "drop_in", "-p", "no:cacheprovider", "-q", test], cwd=tmp_path,
                         env=env, text=True, capture_output=True)
    tests = len(re.findall(r"^    def test_", test.read_text(), re.M))
    assert tests >= 2 and re.search(rf"\b{tests} passed", run.stdout), run.stdout + run.stderr
    assert not re.search("skipped|failed|error", run.stdout.splitlines()[-1]), run.stdout


@pytest.fixture
def tiny():
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("seed", range(6))
def test_decisions_and_texts(seed, tiny, tmp_path, monkeypatch):
    """What Keras' callback says and saves at the events of random trainings, ours says and saves."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(policy_oracle.file_utils, "exists", lambda path: True)
    said = []
    for module in (of_keras.io_utils, libckpt.keras.io_utils):
        monkeypatch.setattr(module, "print_msg", lambda line, line_break=True: said.append(line))
    rng, runs = random.Random(seed), 0
    while runs < 20:
        try:
            run = policy_oracle.one(rng)
        except policy_oracle.Skip:
            continue
        runs += 1
        theirs = keras.callbacks.ModelCheckpoint(**run["options"], verbose=1)
        theirs.set_model(policy_oracle.Model())
        ours = libckpt.keras.ModelCheckpoint(**run["options"], verbose=1, durability="none")
        ours.set_model(tiny)
        for event, expected in zip(run["events"], run["expected"]):
            heard = []
            for callback in (theirs, ours):
                said.clear()
                heard.append((happened(callback, event), list(said)))
            (_, lines), (error, our_lines) = heard
            if expected is None:
                assert error is None
            elif isinstance(expected, dict):
                assert error == expected["error"], (run["options"], event)
            else:
                assert error is None and Path(expected).exists(), (run["options"], event)
                Path(expected).unlink()
            assert our_lines == lines, (run["options"], event)
            assert not list(tmp_path.rglob("*.keras")) + list(tmp_path.rglob("*.h5"))
        assert ours.best == run["best"] or not run["options"]["save_best_only"]


def happened(callback, event):
    """Sends an event: the name of the error, if there is one."""
    try:
        if event["on"] == "epoch_begin":
            callback.on_epoch_begin(event["epoch"])
        elif event["on"] == "batch_end":
            callback.on_train_batch_end(event["batch"], event["logs"])
        else:
            callback.on_epoch_end(event["epoch"], event["logs"])
    except (KeyError, ValueError) as e:
        return type(e).__name__


def saved(model, path, **options):
    """What one end of an epoch saves."""
    callback = libckpt.keras.ModelCheckpoint(path, save_weights_only=".weights." in Path(path).name, **options)
    callback.set_model(model)
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_epoch_end(0, {"val_loss": 1.0, "loss": 2.0})
    callback.on_train_end()
    return callback


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", models.MODELS)
def test_files_are_keras_own(name, asynchronous, tmp_path):
    """Every model of the zoo: what h5py finds in our file is what it finds in Keras'."""
    model = models.build(name)
    models.randomize(model, 2)
    saved(model, tmp_path / "ours.weights.h5", asynchronous=asynchronous)
    model.save_weights(tmp_path / "keras.weights.h5")
    for found, expected in zip(contents(tmp_path / "ours.weights.h5"), contents(tmp_path / "keras.weights.h5")):
        assert_same(found, expected) if isinstance(next(iter(expected.values())), np.ndarray) else None
        assert found.keys() == expected.keys()
    assert contents(tmp_path / "ours.weights.h5")[1] == contents(tmp_path / "keras.weights.h5")[1]

    saved(model, tmp_path / "ours.keras", asynchronous=asynchronous)
    model.save(tmp_path / "keras.keras")
    ours, theirs = (libckpt.Reader(tmp_path / f"{who}.keras") for who in ("ours", "keras"))
    assert json.loads(ours.config) == json.loads(theirs.config)
    assert json.loads(ours.metadata)["keras_version"] == json.loads(theirs.metadata)["keras_version"]
    assert_same(dict(ours), dict(theirs))
    assert ours.names == theirs.names
    assert ours.assets == theirs.assets
    loaded = keras.models.load_model(tmp_path / "ours.keras")
    assert_same(dict(enumerate(models.values(loaded).values())), dict(enumerate(models.values(model).values())))


@pytest.mark.parametrize("name", ["dense", "convolutional_2d", "lstm", "nested", "several"])
def test_legacy_files(name, tmp_path):
    model = models.build(name)
    models.randomize(model, 2)
    saved(model, tmp_path / "ours.h5")
    loaded = models.load(tmp_path / "ours.h5")
    assert_same(dict(enumerate(models.values(loaded).values())), dict(enumerate(models.values(model).values())))


def test_other_endings(tiny, tmp_path):
    saved(tiny, tmp_path / "m.weights.json")
    other = keras.models.clone_model(tiny)
    other.load_weights(tmp_path / "m.weights.json")
    assert_same(dict(enumerate(other.get_weights())), dict(enumerate(tiny.get_weights())))
    saved_as = saved_in_safetensors(tiny, tmp_path / "m.safetensors")
    assert_same(saved_as, {f"layers/dense/vars/{i}": w for i, w in enumerate(tiny.get_weights())})


def saved_in_safetensors(model, path):
    callback = libckpt.keras.ModelCheckpoint(path, save_weights_only=True)
    callback.set_model(model)
    callback.on_epoch_end(0, {"val_loss": 1.0})
    return {name: array for name, array in libckpt.Reader(path).items() if name.startswith("layers/")}


@keras.saving.register_keras_serializable("tests")
class Words(keras.layers.Layer):
    """A layer with assets, and with a state of its own making."""
    words = ("a", "b")

    def call(self, x):
        return x

    def save_own_variables(self, store):
        store["counts"] = np.arange(len(self.words))

    def load_own_variables(self, store):
        assert store["counts"].tolist() == [0, 1]

    def save_assets(self, directory):
        Path(directory, "words.txt").write_text("\n".join(self.words))

    def load_assets(self, directory):
        self.words = tuple(Path(directory, "words.txt").read_text().splitlines())


def test_assets_and_states_of_a_layers_own(tmp_path):
    model = keras.Sequential([keras.layers.Input((1,)), Words(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "{epoch}.keras")
    callback.set_model(model)
    for epoch, words in enumerate([("x", "y"), ("z", "ö")]):
        model.layers[0].words = words
        callback.on_epoch_end(epoch, {"val_loss": 1.0})
        assert keras.models.load_model(tmp_path / f"{epoch + 1}.keras").layers[0].words == words


@keras.saving.register_keras_serializable("tests")
class Notes(keras.layers.Layer):
    """A layer that has something to say of its own only at times, and numbers what it says."""
    says = ()

    def call(self, x):
        return x

    def save_own_variables(self, store):
        for said in self.says:
            store[str(len(store))] = said
        assert list(store.keys()) == [str(i) for i in range(len(self.says))]

    def load_own_variables(self, store):
        self.says = [store[str(i)] for i in range(len(store.keys()))]


def grow(model):
    model.add(keras.layers.Dense(3))


def recompile(model):
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(7)


def adapt(model):
    model.layers[1].enable_lora(2)
    model.layers[1].lora_kernel_b.assign(np.ones((2, 4), "f"))


def quantize(model):
    model.quantize("int8")


def say(model):
    model.layers[0].says = [1.5, 3, [1, 2], True, np.float64(2)]


@pytest.mark.parametrize("change", [grow, recompile, adapt, quantize, say])
def test_models_that_change_between_saves(change, tmp_path):
    """Also within a training: each file is what Keras would have written then."""
    first = Notes() if change is say else keras.layers.ReLU()
    model = keras.Sequential([keras.layers.Input((3,)), first, keras.layers.Dense(4)])
    model.compile("sgd", "mse")
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "ours.keras")
    callback.set_model(model)
    callback.on_epoch_end(0, {"val_loss": 1.0})
    change(model)
    callback.on_epoch_end(1, {"val_loss": 1.0})
    model.save(tmp_path / "keras.keras")
    ours, theirs = (dict(libckpt.Reader(tmp_path / f"{who}.keras")) for who in ("ours", "keras"))
    assert_same(ours, theirs)


def test_what_is_borrowed_from_numpy_is_not_torn(tiny, tmp_path):
    """The numpy backend's variables may change as soon as the callback returns."""
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True, asynchronous=True)
    callback.set_model(tiny)
    for epoch in range(20):
        tiny.layers[0].kernel.value[:] = epoch
        callback.on_epoch_end(epoch, {"val_loss": 1.0})
    callback.on_train_end()
    for epoch in range(20):
        assert libckpt.Reader(tmp_path / f"{epoch + 1}.weights.h5")["layers/dense/vars/0"] == epoch


@pytest.mark.parametrize("arguments, message", [
    ({"filepath": "m.ckpt"}, "must end in `.keras`"),
    ({"filepath": "m.keras", "save_weights_only": True}, "must end in `.weights.h5`"),
    ({"filepath": "m.keras", "save_freq": "batch"}, "Unrecognized save_freq"),
])
def test_arguments_are_refused_as_keras_does(arguments, message):
    errors = []
    for callback in (keras.callbacks.ModelCheckpoint, libckpt.keras.ModelCheckpoint):
        with pytest.raises(ValueError, match=re.escape(message)) as e:
            callback(**arguments)
        errors.append(str(e.value))
    assert errors[0] == errors[1]


def test_best_can_be_set_before_a_training(tiny, tmp_path):
    """As programs do that go on with Keras' callback."""
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True)
    callback.best = 0.5
    callback.set_model(tiny)
    for epoch, loss in enumerate([0.7, 0.4]):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        assert (tmp_path / "m.keras").exists() == (loss < 0.5)
    assert callback.best == 0.4
    with pytest.raises(AttributeError, match="resume=True"):
        callback.best = 1.0


def test_unknown_arguments_and_directions(tiny, tmp_path):
    with pytest.raises(TypeError, match="no argument 'keep'"):
        libckpt.keras.ModelCheckpoint("m.keras", keep=3)
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "m.keras", monitor="fbeta")
    callback.set_model(tiny)
    with pytest.raises(ValueError, match="Pass `mode='max'`"):
        callback.on_epoch_end(0, {"fbeta": 1.0})
    directory = tmp_path / "d.keras"
    directory.mkdir()
    callback = libckpt.keras.ModelCheckpoint(directory)
    callback.set_model(tiny)
    with pytest.raises(OSError, match="existing directory"):
        callback.on_epoch_end(0, {"val_loss": 1.0})


@pytest.mark.parametrize("save_freq", [0, -1, True, 2])
def test_any_number_of_batches(save_freq, tiny, tmp_path):
    names = []
    for who, callback in ("keras", keras.callbacks.ModelCheckpoint), ("ours", libckpt.keras.ModelCheckpoint):
        callback = callback(tmp_path / who / "{epoch}-{batch}.keras", save_freq=save_freq, verbose=2)
        callback.set_model(tiny)
        for epoch in range(2):
            callback.on_epoch_begin(epoch)
            for batch in range(3):
                callback.on_train_batch_end(batch, {"loss": 1.0, "huge": 10**400})
            callback.on_epoch_end(epoch, {"loss": 1.0})
        names.append(sorted(p.name for p in (tmp_path / who).glob("*.keras")))
    assert names[0] == names[1]


def test_a_resumed_training_that_has_no_metrics_yet(tmp_path):
    """As TensorFlow's trainer begins: the name of the monitored one says what is better."""
    model = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    for resumed in (None, 1):
        callback = libckpt.keras.ModelCheckpoint(tmp_path / "{epoch}.keras", monitor="val_mae", save_best_only=True,
                                                 resume=True)
        callback.set_model(model)
        callback.on_train_begin()
        assert (callback.resumed and callback.resumed.epoch) == resumed
        callback.on_epoch_end(0, {"val_mae": 1.0})
        callback.on_epoch_end(1, {"val_mae": 2.0})
        assert callback.best == 1.0


def test_a_model_that_is_not_built_cannot_be_resumed(tmp_path):
    """TensorFlow's trainer builds it with the first batch only: too late for what is in the checkpoint."""
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("adam", "mse")
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "m.keras", resume=True)
    callback.set_model(model)
    with pytest.raises(ValueError, match="model.build()"):
        callback.on_train_begin()
    assert not model.optimizer.built
    model.build((None, 1))
    callback.on_train_begin()
    callback.on_epoch_end(0, {"val_loss": 1.0})


def test_the_best_is_restored_where_no_optimizer_was_built(tiny, tmp_path):
    tiny.compile("adam", "mse")
    callback = libckpt.keras.ModelCheckpoint(tmp_path / "m.keras", save_best_only=True, restore_best=True)
    callback.set_model(tiny)
    callback.on_epoch_end(0, {"val_loss": 1.0})
    best = tiny.get_weights()
    models.randomize(tiny, 3)
    callback.on_train_end()
    assert_same(dict(enumerate(tiny.get_weights())), dict(enumerate(best)))


def test_a_monitor_that_is_no_scalar(tiny, tmp_path):
    said = []
    for callback in (keras.callbacks.ModelCheckpoint, libckpt.keras.ModelCheckpoint):
        callback = callback(tmp_path / "m.keras", save_best_only=True)
        callback.set_model(tiny)
        with pytest.warns(UserWarning) as heard:
            callback.on_epoch_end(0, {"val_loss": np.ones(2)})
        (tmp_path / "m.keras").unlink()
        said.append([str(w.message) for w in heard if w.category is UserWarning])
    assert said[0] == said[1]


@pytest.mark.parametrize("part", ["resume", "borrow", "restore_best", "stop", "full_disk", "batches"])
def test_training(part, tmp_path):
    """A part of drop_in_training.py, in a process of its own."""
    in_jax.run(sys.executable, HERE / "drop_in_training.py", part, tmp_path)
