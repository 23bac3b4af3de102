"""The language of man pages: every text shows as it is, whatever it holds."""

from __future__ import annotations

import pytest

from orchestrator.manual import plain, roff
from orchestrator.manual.page import Entry, Lines, Page, Paragraph, Section


def one(*blocks: Paragraph | Lines | Entry) -> Page:
    """Return a page of some blocks."""
    return Page(name="guestlaunch", number=1, about="a page", sections=(Section("DESCRIPTION", blocks),))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (".SH is no heading here", r"\&.SH is no heading here"),
        ("'quoted'", r"\(aqquoted\(aq"),
        (r"C:\new", r"C:\enew"),
        ("--start is `cold`", r"\-\-start is \fBcold\fR"),
        ("µs, 2×", r"\[u00B5]s, 2\[u00D7]"),
        ("Set GUESTLAUNCH_LOG or log.", r"Set \%GUESTLAUNCH_LOG or log."),
        ("a ` alone", r"a \(ga alone"),
    ],
)
def test_text_shows_as_it_is(text: str, source: str) -> None:
    """What would be a request, an escape or another character is none; backticks make bold."""
    rendered = roff.render(one(Paragraph(text)), "2026-01-31")
    assert rendered.isascii()
    assert rendered.splitlines()[-1] == source


def test_terms_are_bold_where_they_are_typed() -> None:
    """Options are bold, what they take is in italics."""
    page = one(Entry("-c, --connect URI", (Paragraph("Where."),)))
    assert r"\fB\-c\fR, \fB\-\-connect\fR \fIURI\fR" in roff.render(page, "2026-01-31").splitlines()


def test_plain_text_is_at_most_80_columns_wide() -> None:
    """Running text is filled; lines that stay are only indented."""
    page = one(Paragraph("word " * 100), Lines(("  kept  as it is", "")), Entry("`key`", (Paragraph("say " * 60),)))
    lines = plain.render(page).splitlines()
    assert max(map(len, lines)) <= 80
    assert "        kept  as it is" in lines
    assert "    key" in lines
