"""How the reference shows the docstrings of layers: each of their lines `Shapes: …`, `Gradient: …` begins a paragraph.

An extension of griffe, which mkdocs.yml names. Sections that griffe knows (`Args:`, `Returns:`, `Raises:` with an
indented block) are left to it.
"""

from __future__ import annotations

import re

import griffe

_LINE = re.compile(r"^(Shapes|Units|Gradient|Raises|Source|Blobs|Order|Learned): (?=\S)", re.MULTILINE)


class Paragraphs(griffe.Extension):
    """Put a blank line before each such line, and its word in bold."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = as_paragraphs(obj.docstring.value)


def as_paragraphs(docstring: str) -> str:
    """Return the docstring with its one-line sections as paragraphs."""
    return _LINE.sub(r"\n**\1:** ", docstring)
