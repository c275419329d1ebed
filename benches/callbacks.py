"""What an end of an epoch costs a Keras training: Keras' own ModelCheckpoint, and libckpt's in its place.

    KERAS_BACKEND=jax callbacks.py DIRECTORY ROUNDS UNITS

prints {ending: {contestant: [seconds, ...]}}: of a model whose weights and optimizer are 100 MB with 2,870 UNITS, which takes a
step between the saves, so that all its arrays are new. One save at a time: what was written is flushed, and saves in the
background have ended, before the next contestant's turn. The benchmark's part runs it in a process of its own.
"""
import json
import os
import subprocess
import sys
import time

KERAS, SYNC, ASYNC = "Keras' callback (not flushed)", "libckpt, durable", "libckpt, asynchronous"


def part(b):
    """The part of the benchmark."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu",
                   "PYTHONPATH": os.path.join(root, "bindings/python")}
    rounds, units = ("3", "500") if b.quick else ("15", "2870")
    told = subprocess.check_output([sys.executable, __file__, b.dir, rounds, units], env=environment, text=True)
    for ending, taken in json.loads(told).items():
        answers = {name: [{"secs": secs} for secs in list_] for name, list_ in taken.items()}
        b.report.case(f"Keras training on jax, {ending}, 100 MB: what an end of an epoch keeps it", answers)
        b.report.bar(f"callback, {ending}: asynchronous / Keras' own", taken[ASYNC], taken[KERAS], 1 / 50)
        b.report.bar(f"callback, {ending}: durable / Keras' own (not flushed)", taken[SYNC], taken[KERAS], 1 / 2)


def main(directory, rounds, units):
    import jax
    import keras
    import numpy as np

    import libckpt.keras

    model = keras.Sequential([keras.layers.Input((64,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(units, "relu"),
                              keras.layers.Dense(10)])
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    x, y = rng.random((16, 64), "float32"), rng.random((16, 10), "float32")
    results = {}
    for ending in (".weights.h5", ".keras"):
        def path(name):
            return os.path.join(directory, name + ending)
        weights = {"save_weights_only": ending != ".keras"}
        contestants = {KERAS: keras.callbacks.ModelCheckpoint(path("keras"), **weights),
                       SYNC: libckpt.keras.ModelCheckpoint(path("sync"), **weights),
                       ASYNC: libckpt.keras.ModelCheckpoint(path("async"), asynchronous=True, **weights)}
        taken = results[ending] = {name: [] for name in contestants}
        for epoch in range(rounds + 1):
            for name, callback in contestants.items():
                callback.set_model(model) if epoch == 0 else None
                loss = model.train_on_batch(x, y)
                jax.block_until_ready([v.value for v in (*model.variables, *model.optimizer.variables)])
                os.sync()
                begin = time.perf_counter()
                callback.on_epoch_end(epoch, {"loss": float(loss), "val_loss": float(loss)})
                took = time.perf_counter() - begin
                if name == ASYNC:
                    callback.session.wait()
                if epoch:  # the first warms up
                    taken[name].append(took)
        del contestants
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
