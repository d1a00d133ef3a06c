"""Errors of Python layers, as scripts written for pycaffe catch them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fcn_caffe.errors import FcnCaffeError, LayerError


@contextmanager
def raise_as_raised() -> Iterator[None]:
    """Let an error of a Python layer raised in the block be of the class that the layer's method raised, too.

    pycaffe hands a layer's exception through as it is, and scripts catch it by its class.
    """
    try:
        yield
    except LayerError as error:
        cause = error.__cause__
        if error.type != "Python" or not isinstance(cause, Exception) or isinstance(cause, FcnCaffeError):
            raise
        raise of_both_classes(error, cause) from cause


def of_both_classes(error: LayerError, raised: Exception) -> LayerError:
    """Return the error as one whose class is also that of `raised`; as it is where Python cannot join the two."""
    kind = type(raised)
    if isinstance(error, kind) or kind is StopIteration:  # which no block may raise
        return error
    try:
        both = type(kind.__name__, (LayerError, kind), {"__str__": Exception.__str__, "__init__": Exception.__init__})
        joined: LayerError = both(str(error))
        joined.__dict__.update(raised.__dict__)
        joined.__dict__.update(error.__dict__)
        return joined
    except Exception:  # two classes of different layouts, or one that wants other arguments
        return error
