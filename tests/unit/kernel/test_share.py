"""By which way a directory is shared: 9p where it works, virtiofs where the kernel has only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import CapabilityError
from orchestrator.kernel import share
from orchestrator.kernel.share import ShareBy, choose

PROGRAM = Path("/usr/libexec/virtiofsd")
DIRECTORY = Path("/home/me")
NINE, FS = ShareBy.P9, ShareBy.VIRTIOFS


@pytest.mark.parametrize(
    ("asked", "lacked", "program", "chosen"),
    [
        (ShareBy.AUTO, (), PROGRAM, (NINE, None)),
        (ShareBy.AUTO, (FS,), None, (NINE, None)),
        (ShareBy.AUTO, (NINE,), PROGRAM, (FS, PROGRAM)),
        (NINE, (NINE,), PROGRAM, (NINE, None)),  # who asks for it knows better, or wants to see it fail
        (FS, (), PROGRAM, (FS, PROGRAM)),
    ],
)
def test_the_way(
    monkeypatch: pytest.MonkeyPatch,
    asked: ShareBy, lacked: tuple[ShareBy, ...], program: Path | None, chosen: tuple[ShareBy, Path | None],
) -> None:  # fmt: skip
    """What was asked for, or what there is."""
    monkeypatch.setattr(share, "find_program", lambda: program)
    assert choose(asked, DIRECTORY, lacked.__contains__) == chosen


@pytest.mark.parametrize(
    ("asked", "lacked", "program", "why"),
    [
        (ShareBy.AUTO, (NINE, FS), PROGRAM, "the kernel has neither 9p nor virtiofs"),
        (ShareBy.AUTO, (NINE,), None, "the kernel has no 9p, and no virtiofsd is installed"),
        (FS, (), None, "/home/me: no virtiofsd is installed"),
    ],
)
def test_no_way(
    monkeypatch: pytest.MonkeyPatch, asked: ShareBy, lacked: tuple[ShareBy, ...], program: Path | None, why: str
) -> None:
    """It is said before anything starts."""
    monkeypatch.setattr(share, "find_program", lambda: program)
    with pytest.raises(CapabilityError, match=why):
        choose(asked, DIRECTORY, lacked.__contains__)
