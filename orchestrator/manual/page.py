"""A manual page as values: sections of paragraphs, lines that stay as they are, and terms with their explanations.

In texts, `backticks` stand around what is typed as it is. How a page is shown is decided elsewhere (`roff`, `plain`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Running text."""

    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines that stay as they are: examples, formats of files."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """A term and its explanation. In a term, options and what is in `backticks` are typed, the rest is put in."""

    term: str
    blocks: tuple[Paragraph | Lines, ...]


Block = Paragraph | Lines | Entry


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it.

    :ivar sections: sections of its own; those have none.
    """

    title: str
    blocks: tuple[Block, ...] = ()
    sections: tuple[Section, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of the manual.

    :ivar number: the manual's part: 1 for commands, 5 for files, 8 for daemons.
    :ivar about: what it is about, on one line.
    """

    name: str
    number: int
    about: str
    sections: tuple[Section, ...]

    @property
    def file_name(self) -> str:
        """The file's name below its manN directory."""
        return f"{self.name}.{self.number}"


def entry(term: str, text: str) -> Entry:
    """Return a term that a single paragraph explains."""
    return Entry(term, (Paragraph(text),))


def blocks(text: str) -> Iterator[Paragraph | Lines]:
    """Yield the blocks of a help text of click's: paragraphs, and what follows a line with a backspace as it is."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.startswith("\b\n"):
            yield Lines(tuple(part.split("\n")[1:]))
        elif part:
            yield Paragraph(" ".join(part.split()))


def continued(line: str, width: int) -> tuple[str, ...]:
    """Return a shell's command line as lines of at most a width: a backslash stands where one goes on.

    It is broken between words only, never within quotes. A remark after it, set off by spaces, becomes a comment
    before it where both are too long.
    """
    if len(line) <= width:
        return (line,)
    command, *remark = re.split(r"\s{2,}", line, maxsplit=1)
    # An option stays with its value, a program with the pipe before it.
    words = re.findall(r"""(?:(?:--?\w[^\s=]*|\|)\s(?=[^-\s]))?(?:[^\s"']|"[^"]*"|'[^']*')+""", command)
    rows = words[:1]
    for word in words[1:]:
        if len(rows[-1]) + len(word) + 3 <= width:
            rows[-1] += f" {word}"
        else:
            rows.append(f"    {word}")
    return (*(f"# {text.strip('()# ')}" for text in remark), *(f"{row} \\" for row in rows[:-1]), *rows[-1:])
