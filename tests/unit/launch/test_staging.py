"""Staging of a launch's files, and stop requests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.errors import ApplianceError, LaunchError
from orchestrator.launch.staging import directory, root_overlay, write_secret
from orchestrator.launch.stop import Stop


def test_stop_is_waitable_and_keeps_its_first_reason() -> None:
    """A stop request makes its descriptor readable."""
    with Stop() as stop:
        assert not stop.requested
        stop.request("first")
        stop.request("second")
        assert stop.reason == "first"
        assert os.eventfd_read(stop.fileno()) == 2


def test_launch_directory_is_private_and_goes(tmp_path: Path) -> None:
    """The directory is ours alone, holds secrets as 0600, and is removed with its content."""
    with directory(tmp_path / "launches", "gl-1") as path:
        secret = write_secret("s3cret", path / "key")
        assert path.stat().st_mode & 0o777 == 0o700
        assert secret.stat().st_mode & 0o777 == 0o600
        assert secret.read_text() == "s3cret"
    assert not path.exists()


def test_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """The error names the directory, and nothing is left."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(LaunchError, match="cannot make the launch's directory: .*file/gl-1"),
        directory(tmp_path / "file", "gl-1"),
    ):
        pass


def test_missing_root_is_named(tmp_path: Path) -> None:
    """An overlay over nothing is refused before qemu-img runs."""
    with pytest.raises(ApplianceError, match="cannot read the appliance's root: .*/root: No such file"):
        root_overlay(tmp_path / "root", "raw", tmp_path, tmp_path / "cache")
