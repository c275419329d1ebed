"""libckpt: what `keras.callbacks.ModelCheckpoint` is to Keras, for every trainer that has NumPy arrays.

    session = libckpt.Session("run/{epoch:02d}-{val_loss:.3f}.weights.h5", save_best_only=True, save_weights_only=True)
    model = libckpt.Model({"layers/dense/vars/0": kernel, "layers/dense/vars/1": bias})
    for epoch in range(10):
        ...
        if session.on_epoch_end(epoch, {"val_loss": loss}):
            session.save(model)

`libckpt.keras.ModelCheckpoint` is Keras' callback, with all of this behind it.
"""
from ._c import VERSION as __version__
from .errors import (CancelledError, DiskError, Error, FormatError, InternalError, InvalidArgumentError, MismatchError,
                     NoSpaceError, NotFoundError, StateError, TemplateError, UnsupportedError)
from .model import Model
from .reader import Reader, convert
from .session import Resumed, Session

__all__ = ["CancelledError", "DiskError", "Error", "FormatError", "InternalError", "InvalidArgumentError", "MismatchError",
           "Model", "NoSpaceError", "NotFoundError", "Reader", "Resumed", "Session", "StateError", "TemplateError",
           "UnsupportedError", "convert"]
