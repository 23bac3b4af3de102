"""Pages as man(7), the language of manual pages, in what groff and mandoc both know of it.

Not by click-man, which makes man pages of click's commands: it makes a page of each subcommand, leaves out examples,
does not see commands that are loaded when they are used, and knows neither settings nor any page but a command's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator import __version__
from orchestrator.manual.page import Block, Entry, Lines, Page, Paragraph, Section

_KIND = {1: "User Commands", 5: "File Formats", 8: "System Administration"}
# The least by which terms stand out; wider ones get a line of their own.
_INDENT = 4
# Words that somebody may copy: names of ours, and what has a character in it that no plain word has.
_NAME = re.compile(r"(?<!\S)(?=\S*(?:guest|GUEST|[_/$=]|\w\.\w))\S+")
_SPECIAL = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}


def render(page: Page, date: str) -> str:
    """Return a page's source.

    :param date: YYYY-MM-DD, for the footer.
    """
    head = f'.TH {_plain(page.name.upper())} {page.number} {date} "guestlaunch {__version__}" "{_KIND[page.number]}"'
    lines = [r".\" Made by guestlaunch help --write; changes here are lost.", head, ".ad l"]
    lines += [".SH NAME", rf"{_plain(page.name)} \- {_plain(page.about)}"]
    for section in page.sections:
        lines += _section(section)
    return "\n".join(lines) + "\n"


def _section(section: Section, macro: str = ".SH") -> Iterator[str]:
    yield f"{macro} {_plain(section.title)}"
    yield from _blocks(section.blocks)
    for one in section.sections:
        yield from _section(one, ".SS")


def _blocks(blocks: tuple[Block, ...], *, nested: bool = False) -> Iterator[str]:
    """Yield the source of blocks. The first needs no break before it: a heading or a term is there."""
    for number, block in enumerate(blocks):
        match block:
            case Paragraph(text):
                yield from ([".IP" if nested else ".PP"] if number else [])
                yield _inline(text)
            case Lines(rows):
                yield from ([".IP" if nested else ".PP"] if number else [])
                yield from ((".RS 4", ".EX") if not nested else (".EX",))
                yield from (_guarded(_escaped(row)) for row in rows)
                yield from ((".EE", ".RE") if not nested else (".EE",))
            case Entry(term, explanation):
                yield f".TP {_INDENT + 4}"
                yield _term(term)
                yield from _blocks(explanation, nested=True)


def _inline(text: str) -> str:
    """Return running text; what stands in backticks is bold."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick that stands for itself
        return _guarded(_escaped(text))
    return _guarded(
        "".join(rf"\fB{_escaped(part)}\fR" if index % 2 else _escaped(part) for index, part in enumerate(parts))
    )


def _term(term: str) -> str:
    """Return a term: what is typed is bold, what stands for something is italic."""
    shown = []
    for word in re.split(r"(`[^`]*`|, |\s+)", term):
        if word.startswith("`"):
            shown.append(rf"\fB{_escaped(word.strip('`'))}\fR")
        elif word.startswith("-"):
            shown.append(rf"\fB{_escaped(word)}\fR")
        elif word.strip(" ,/"):
            shown.append(rf"\fI{_escaped(word)}\fR")
        else:
            shown.append(word)
    return "".join(shown)


def _escaped(text: str) -> str:
    """Return text that shows as it is; names and paths in it are not hyphenated."""
    return _plain(_NAME.sub("\0\\g<0>", text)).replace("\0", r"\%")


def _plain(text: str) -> str:
    """Return text that shows as it is, whatever the terminal's encoding."""
    return "".join(_SPECIAL.get(c, c) if c.isascii() else rf"\[u{ord(c):04X}]" for c in text)


def _guarded(line: str) -> str:
    """Return a line that is text whatever it begins with."""
    return rf"\&{line}" if line.startswith((".", "'")) or not line else line
