"""Pages as values: help texts become blocks, long command lines go on in the next line."""

from __future__ import annotations

import shlex

import pytest

from orchestrator.manual.page import Lines, Paragraph, blocks, continued


def test_help_text_becomes_blocks() -> None:
    """Paragraphs are filled anew; what follows a backspace stays line by line."""
    text = "One\nparagraph.\n\n\b\nExamples:\n  a  b\n\nAnother."
    assert list(blocks(text)) == [Paragraph("One paragraph."), Lines(("Examples:", "  a  b")), Paragraph("Another.")]


@pytest.mark.parametrize(
    "line",
    [
        "short",
        "guestlaunch domain xml --profile x86_64-ovmf --kernel vmlinuz --initrd initrd.img --cmdline 'a=b quiet'",
        'eval "$(guestlaunch env --profile x86_64-ovmf --fw-cfg-dma off)"; guestfish --ro -a disk.img -i',
        "a-word-that-is-longer-than-the-whole-line-may-be-and-more-so second",
    ],
)
def test_continued_line_is_the_same_command(line: str) -> None:
    """A shell reads the same words from the lines as from the one; each fits where a single word does not exceed it."""
    rows = continued(line, 50)
    assert shlex.split("\n".join(rows).replace("\\\n", "")) == shlex.split(line)
    assert all(len(row) <= 50 or len(shlex.split(row.removesuffix("\\"))) <= 2 for row in rows)


def test_remark_comes_before_a_line_that_is_too_long() -> None:
    """What is said beside a command stands above it where there is no room."""
    line = "guestlaunch exec -- guestmount -a disk.img -i --ro /mnt      (ends with guestunmount)"
    assert continued(line, 60) == (
        "# ends with guestunmount",
        "guestlaunch exec -- guestmount -a disk.img -i --ro /mnt",
    )
    assert continued(line, 100) == (line,)
