"""Silence, while PyTorch exports."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

_CHATTY = ("torch.export", "torch.onnx", "torch.fx", "onnxscript", "onnx_ir", "torch._dynamo", "torch._export")


@contextmanager
def quiet(*more: str) -> Iterator[None]:
    """Silence what PyTorch's exporters tell their developers, and more loggers."""
    loggers = [logging.getLogger(name) for name in (*_CHATTY, *more)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
