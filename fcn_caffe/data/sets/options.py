"""Options of a data layer: the Python dict literal in `param_str`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

from fcn_caffe.errors import DataError
from fcn_caffe.host.text import did_you_mean

__all__ = ["is_whole", "parse_param_str", "read_mean", "read_options"]


def is_whole(value: object, least: int) -> bool:
    """Say whether a value is a whole number of at least `least`; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def parse_param_str(param_str: str, who: str) -> dict[str, Any]:
    """Parse a `param_str` as a dict literal.

    Raises:
        DataError: if it is none; it quotes the text.
    """
    try:
        value = ast.literal_eval(param_str.strip() or "{}")
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise DataError(
            f"{who}: param_str is not a Python dict literal ({error}): {param_str!r}. "
            "Write it like \"{'split': 'train', 'seed': 1337}\"."
        ) from error
    if not isinstance(value, dict):
        raise DataError(f"{who}: param_str should be a dict, got {type(value).__name__}: {param_str!r}.")
    return value


def read_options(
    param_str: str, who: str, *, required: Sequence[str] = (), defaults: Mapping[str, Any], others: bool = False
) -> dict[str, Any]:
    """Read a `param_str` and check it against the options that the layer knows; `others` allows any besides.

    Raises:
        DataError: for a missing option, or an unknown one with the nearest known name.
    """
    options = parse_param_str(param_str, who)
    known = [*required, *defaults]
    for key in options:
        if key not in known and not others:
            hint = did_you_mean(str(key), known, '"') or f" Known: {', '.join(known)}."
            raise DataError(f'{who}: param_str has an unknown option "{key}".{hint}')
    for key in required:
        if key not in options:
            raise DataError(f'{who}: param_str needs "{key}". It has: {", ".join(map(str, options)) or "nothing"}.')
    return {**defaults, **options}


def read_mean(value: Iterable[SupportsFloat], who: str, channels: int = 3) -> tuple[float, ...]:
    """Return a mean of each channel, in the order of the blob's channels.

    Raises:
        DataError: for another number of values.
    """
    try:
        mean = tuple(float(part) for part in value)
    except (TypeError, ValueError, OverflowError):
        mean = ()
    if len(mean) != channels:
        raise DataError(f"{who}: mean should be {channels} numbers, blue green red, got {value!r}.")
    return mean
