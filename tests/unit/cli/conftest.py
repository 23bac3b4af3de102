"""For tests of commands: a state directory of the test's own, and no settings of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state directory that commands use, not made yet."""
    folder = tmp_path / "state"
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", str(folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return folder
