"""Runs programs in processes of their own, whose Keras has jax as its backend: pytest's has numpy, which trains nothing."""
import os
import subprocess


def run(*command, cwd=None):
    """What a program has printed."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
