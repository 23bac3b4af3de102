"""Templates that could not be built are left alone for longer each time, and in the end for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.template import failures

KEY = "0123456789abcdef"


def test_each_pause_is_longer_and_there_is_an_end(tmp_path: Path) -> None:
    """Ten minutes, an hour, six: after the fifth failure nobody tries by himself."""
    assert failures.why_not_again(tmp_path, KEY, 0.0) is None
    now = 1e9
    for minutes in (10, 60, 360, 2160):
        failures.note(tmp_path, KEY, now)
        assert f"{minutes} minutes" in str(failures.why_not_again(tmp_path, KEY, now + minutes * 60 - 1))
        now += minutes * 60
        assert failures.why_not_again(tmp_path, KEY, now) is None
    failures.note(tmp_path, KEY, now)
    assert "5 times" in str(failures.why_not_again(tmp_path, KEY, now + 1e9))
    assert failures.why_not_again(tmp_path, "another", now) is None
    failures.forget(tmp_path, KEY)
    assert failures.why_not_again(tmp_path, KEY, now) is None


def test_a_clock_that_was_set_back_holds_nothing_up(tmp_path: Path) -> None:
    """A failure in the future is no reason to wait for it."""
    failures.note(tmp_path, KEY, 2e9)
    assert failures.why_not_again(tmp_path, KEY, 1e9) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"k": 1}', '{"k": ["x", 1]}', '{"k": [1]}', "\udcff"])
def test_what_cannot_be_read_is_nothing(tmp_path: Path, content: str) -> None:
    """Whatever the file holds, templates are built as if none had failed."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "unbuilt.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert failures.why_not_again(tmp_path, "k") is None
    failures.note(tmp_path, "k")
    assert failures.why_not_again(tmp_path, "k") is not None


def test_only_so_many_are_remembered(tmp_path: Path) -> None:
    """The file does not grow: the oldest failures are forgotten."""
    for number in range(150):
        failures.note(tmp_path, f"key{number}")
    assert failures.why_not_again(tmp_path, "key0") is None
    assert failures.why_not_again(tmp_path, "key149") is not None
