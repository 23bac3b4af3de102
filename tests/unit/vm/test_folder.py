"""The files of a VM: made for it, removed by name, and had by one command at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.vm import folder as folders


def test_only_what_was_made_is_removed(tmp_path: Path) -> None:
    """What else lies there stays, with the folder."""
    own = tmp_path / "one"
    folders.make(own, passable=True)
    assert own.stat().st_mode & 0o777 == 0o711
    for name in (folders.DISK, folders.NVRAM, "notes"):
        (own / name).touch()
    assert folders.clear(own) == ["notes"]
    (own / "notes").unlink()
    assert folders.clear(own) == []
    assert not folders.begun(own)


def test_one_command_at_a_time(tmp_path: Path) -> None:
    """The second is refused; nothing stays of the lock."""
    with folders.held(tmp_path / "vms", "one"):
        with pytest.raises(UsageError, match="another command has it"), folders.held(tmp_path / "vms", "one"):
            pass
        with folders.held(tmp_path / "vms", "two"):
            pass
    assert list((tmp_path / "vms").iterdir()) == []
