"""How the reference shows docstrings: a layer's lines `Shapes: …`, `Gradient: …` begin paragraphs, examples are code.

An extension of griffe, which mkdocs.yml names. Sections that griffe knows (`Args:`, `Returns:`, `Raises:` with an
indented block) are left to it.
"""

from __future__ import annotations

import re

import griffe

_LINE = re.compile(r"^(Shapes|Units|Gradient|Raises|Source|Blobs|Order|Learned): (?=\S)", re.MULTILINE)
_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)  # to the next blank line; Markdown would quote it


class Paragraphs(griffe.Extension):
    """Put a blank line before each such line, its word in bold, and examples into fences."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring:
            obj.docstring.value = as_paragraphs(obj.docstring.value)


def as_paragraphs(docstring: str) -> str:
    """Return the docstring with its one-line sections as paragraphs and its examples as code."""
    return _EXAMPLE.sub("```pycon\n\\g<0>\n```", _LINE.sub(r"\n**\1:** ", docstring))
