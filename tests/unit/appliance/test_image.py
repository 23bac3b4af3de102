"""The appliance's root as an image: what may stand in the way of an ordinary user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.appliance.command import Deadline
from orchestrator.appliance.image import write_image
from orchestrator.errors import ApplianceError


def test_unshare_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The build's deadline holds while it is found out how a user's files become root's."""
    (tmp_path / "unshare").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "unshare").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ApplianceError, match="unshare: not done by the deadline"):
        write_image(tmp_path, tmp_path / "image", Deadline.after(0.2))
