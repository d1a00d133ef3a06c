"""What the documents hold: code blocks that run, commands with their flags, names of the package, links.

Before a block, an HTML comment says how it is treated; readers do not see it:
`not run: REASON` leaves it out, `exit status 1: REASON` is what its last command ends with, `output` before a `text`
block says that the commands above it print these lines, … standing for anything. A block with a title is a file.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache

from places import ROOT

# `weights/` is left out: it may hold downloads.
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("findings/*.md"),
    )
)

# What a CHANGELOG says of names is true of their time.
CURRENT = [document for document in DOCUMENTS if document != "CHANGELOG.md"]

_BLOCK = re.compile(
    r"(?:<!-- (?P<note>[^>]*?) -->\n+)?^```(?P<language>\w+)?(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, the file name it is given, and what the comment before it says."""

    language: str
    text: str
    title: str
    note: str

    @property
    def is_run(self) -> bool:
        return not self.note.startswith("not run: ")

    @property
    def exit_status(self) -> int:
        match = re.match(r"exit status (\d+): ", self.note)
        return int(match[1]) if match else 0

    def commands(self) -> list[list[str]]:
        """Return the words of each command of a `sh` block."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines for words in _commands(shlex.split(line, comments=True)) if words]


def _commands(words: list[str]) -> list[list[str]]:
    """Return the commands of a line, which && may join."""
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


@cache
def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[Block]:
    """Return the code blocks of a document in their order."""
    return [
        Block(match["language"] or "", match["text"], match["title"] or "", match["note"] or "")
        for match in _BLOCK.finditer(text_of(document))
    ]


def tool_of(words: list[str]) -> str:
    """Return the name of the tool that a command runs; empty if it runs none."""
    for index, word in enumerate(words):
        if word.endswith("fcn-caffe") or (words[index - 1 : index + 1] == ["-m", "fcn_caffe"]):
            return words[index + 1].replace("-", "_") if index + 1 < len(words) else ""
        if match := re.fullmatch(r"(?:.*/)?tools/(\w+)\.py", word):
            return match[1]
    return ""


def links(document: str) -> list[str]:
    """Return where the links of a document lead, without those to the network."""
    text = re.sub(r"^```.*?^```$", "", text_of(document), flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"\w+:", link)]


def files(document: str) -> list[str]:
    """Return the files of the checkout that a document names in backticks."""
    return re.findall(
        r"`((?:tools|tests|docs|nets|solvers|benchmarks|examples|findings)/[\w./-]+\.\w+)`", text_of(document)
    )


def names(document: str) -> list[str]:
    """Return the dotted names of the package in a document, without where its links lead."""
    text = re.sub(r"\]\([^)\s]+\)", "]", text_of(document))
    return sorted(set(re.findall(r"\bfcn_caffe(?:\.[A-Za-z_]\w*)+", text)))
