"""What can go wrong: a class for each status of ckpt.h, which is also the one that Python has for it."""


class Error(Exception):
    """A call of the library that failed. `status` is the name of its status, the message says what to do."""
    status = "CKPT_E_INTERNAL"


class InvalidArgumentError(Error, ValueError):
    status = "CKPT_E_INVALID_ARGUMENT"


class TemplateError(Error, ValueError):
    """The file path's template: syntax, unknown or missing key."""
    status = "CKPT_E_TEMPLATE"


class DiskError(Error, OSError):
    """The operating system refused: `errno` says why."""
    status = "CKPT_E_IO"


class NoSpaceError(DiskError):
    """The disk or the quota is full."""
    status = "CKPT_E_NO_SPACE"


class FormatError(Error, ValueError):
    """Not a checkpoint, damaged, or made to do harm."""
    status = "CKPT_E_FORMAT"


class NotFoundError(Error, LookupError):
    """There is no such file, tensor or value."""
    status = "CKPT_E_NOT_FOUND"


class MismatchError(Error, ValueError):
    """A tensor's name, dtype or shape is not what was expected."""
    status = "CKPT_E_MISMATCH"


class StateError(Error, RuntimeError):
    """Not now: wrong order of calls, busy, or locked by another process."""
    status = "CKPT_E_STATE"


class UnsupportedError(Error, NotImplementedError):
    status = "CKPT_E_UNSUPPORTED"


class CancelledError(Error):
    status = "CKPT_E_CANCELLED"


class InternalError(Error, RuntimeError):
    """A bug in the library."""


# By their numbers in ckpt.h.
_CLASSES = [None, InvalidArgumentError, TemplateError, DiskError, NoSpaceError, FormatError, NotFoundError, MismatchError,
            StateError, UnsupportedError, CancelledError, InternalError]


def raise_for(status, message, os_error):
    kind = _CLASSES[status] if status < len(_CLASSES) else InternalError
    error = kind(message)
    if isinstance(error, DiskError):
        error.errno = os_error
    raise error
