"""Programs that a build runs: deadlines, failures, what they leave."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from orchestrator.appliance.command import Deadline, require, run
from orchestrator.errors import ApplianceError, CapabilityError


def test_output_and_lines() -> None:
    """The output is returned, and each line is told as it comes."""
    lines: list[str] = []
    assert run(["printf", "a\\nb\\n"], Deadline.after(10), on_line=lines.append) == "a\nb\n"
    assert lines == ["a", "b"]


def test_failure_says_why() -> None:
    """A failure carries the exit status and the end of what the program said."""
    with pytest.raises(ApplianceError, match="sh: exit status 3; broken: it is"):
        run(["sh", "-c", "echo broken: it is >&2; exit 3"], Deadline.after(10))


def test_deadline_ends_the_program_and_its_children(tmp_path: Path) -> None:
    """At the deadline the program ends, and so does all that it started."""
    started = time.monotonic()
    with pytest.raises(ApplianceError, match="deadline"):
        run(["sh", "-c", f"(sleep 1.5; touch {tmp_path}/late) & sleep 30"], Deadline.after(0.3))
    assert time.monotonic() - started < 10
    time.sleep(1.8)
    assert not (tmp_path / "late").exists()


def test_missing_program_names_its_package() -> None:
    """A program that is not installed is named, with the package that has it."""
    with pytest.raises(CapabilityError, match="no-such-program.*install the package some-package"):
        require("no-such-program", "some-package")


def test_sbin_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A normal user's PATH need not have the directories of depmod and mke2fs."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert require("mke2fs", "e2fsprogs").endswith("sbin/mke2fs")
