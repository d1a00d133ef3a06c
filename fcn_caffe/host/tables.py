"""Tables for people to read: drawn on a terminal, plain text everywhere else, where scripts may read them.

>>> print_tables("a  1", [Table(("name", "count"), [("a", "1")])])  # no terminal: the plain text
a  1
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TextIO

__all__ = ["Table", "print_tables"]

_NUMBER = re.compile(r"[-+]?[\d.,]*\d(e[-+]?\d+)?%?|-|nan|inf|")


@dataclass(frozen=True)
class Table:
    """The cells of a table: its columns' titles and its rows. A column of numbers is aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def is_numeric(self, column: int) -> bool:
        """Say whether every cell of a column is a number, or empty."""
        return all(_NUMBER.fullmatch(row[column].strip()) for row in self.rows)


def print_tables(plain: str, tables: Iterable[Table], stream: TextIO | None = None) -> None:
    """Print tables on a terminal; print `plain`, which says the same, on any other stream.

    Args:
        plain: the text for files, pipes and scripts.
        tables: what is drawn on a terminal.
        stream: where to print, standard output if None.
    """
    stream = sys.stdout if stream is None else stream
    if not stream.isatty():
        print(plain, file=stream, flush=True)
        return
    from rich.console import Console
    from rich.table import Table as Drawing
    from rich.text import Text

    console = Console(file=stream)
    for table in tables:
        drawing = Drawing(title=table.title or None, title_justify="left")
        for index, title in enumerate(table.columns):
            justify: Literal["left", "right"] = "right" if index and table.is_numeric(index) else "left"
            drawing.add_column(Text(title), justify=justify, overflow="fold")  # nothing is left out
        for row in table.rows:
            drawing.add_row(*map(Text, row))  # Text: brackets in a name are no markup
        console.print(drawing)
