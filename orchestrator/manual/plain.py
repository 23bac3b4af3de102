"""Pages as plain text, for where there is no man(1), and for pipes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from orchestrator.manual.page import Block, Entry, Lines, Page, Paragraph, Section

_INDENT = 4


def render(page: Page, width: int = 80) -> str:
    """Return a page as lines of at most a width, but for what has to stay as it is."""
    lines = [f"{page.name}({page.number}) - {page.about}"]
    for section in page.sections:
        lines += ["", *_section(section, 0, width)]
    return "\n".join(lines) + "\n"


def _section(section: Section, indent: int, width: int) -> Iterator[str]:
    yield " " * indent + section.title
    yield from _blocks(section.blocks, indent + _INDENT, width)
    for number, one in enumerate(section.sections):
        if number or section.blocks:
            yield ""
        yield from _section(one, indent + _INDENT // 2, width)


def _blocks(blocks: tuple[Block, ...], indent: int, width: int) -> Iterator[str]:
    for number, block in enumerate(blocks):
        if number and not (isinstance(block, Entry) and isinstance(blocks[number - 1], Entry)):
            yield ""
        match block:
            case Paragraph(text):
                yield from _filled(text, indent, width)
            case Lines(rows):
                yield from (" " * (indent + 2) + row if row else "" for row in rows)
            case Entry(term, explanation):
                yield from _filled(term, indent, width)
                yield from _blocks(explanation, indent + _INDENT, width)


def _filled(text: str, indent: int, width: int) -> list[str]:
    pad = " " * indent
    parts = text.split("`")
    shown = "".join(parts) if len(parts) % 2 else text
    return textwrap.wrap(
        shown, width, initial_indent=pad, subsequent_indent=pad, break_long_words=False, break_on_hyphens=False
    )
