"""Where the layers of a net lie in its text, for changes that leave the rest as it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fcn_caffe.proto.text import tokens

__all__ = ["Span", "layer_spans"]

_OPENING, _CLOSING = ("{", "<"), ("}", ">")


@dataclass
class Span:
    """A message in a text.

    Attributes:
        name: its field.
        start: where the name begins.
        close: where its closing mark is.
        inner: the messages right inside it, in their order.
    """

    name: str
    start: int
    close: int = 0
    inner: list[Span] = field(default_factory=list)


def layer_spans(text: str) -> list[Span]:
    """Return the `layer` messages of a net's text, in the file's order. The text has to be a net that can be read.

    >>> text = 'layer { name: "a" } layer { crop_param { axis: 2 } }'
    >>> [text[span.start : span.close + 1] for span in layer_spans(text)]
    ['layer { name: "a" }', 'layer { crop_param { axis: 2 } }']
    """
    return [span for span in _spans(text) if span.name == "layer"]


def _spans(text: str) -> Iterator[Span]:
    open_spans: list[Span] = []
    last = Span("", 0)  # the latest name
    for value, start, is_name in tokens(text):
        if is_name:
            last = Span(value, start)
        elif value in _OPENING:
            # In a list of messages the name stands once, before all of them.
            span = Span(last.name, last.start if not open_spans or last.start > open_spans[-1].start else start)
            if open_spans:
                open_spans[-1].inner.append(span)
            open_spans.append(span)
        elif value in _CLOSING:
            span = open_spans.pop()
            span.close = start
            last = Span(span.name, start)
            if not open_spans:
                yield span
