"""What a program's outermost frame makes of the host's errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from orchestrator.launch.diagnosis import system_error
from orchestrator.program import guarded


@pytest.mark.parametrize(("number", "limit"), [(errno.EMFILE, "ulimit -n 1024"), (errno.ENFILE, "fs.file-max")])
def test_too_many_open_files(capsys: pytest.CaptureFixture[str], number: int, limit: str) -> None:
    """The limit is named, whether a command or a launch comes upon it; it is no bug."""
    error = OSError(number, os.strerror(number))

    def body() -> int:
        raise error

    assert guarded("guestlaunch", body) == 1
    said = capsys.readouterr().err
    assert limit in said
    assert "bug" not in said
    assert limit in str(system_error(error, "x", Path("/state")))
