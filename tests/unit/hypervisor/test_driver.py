"""Why the embedded driver does not start, told in libvirt's words, with the one thing that helps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.hypervisor import driver
from orchestrator.hypervisor.failure import Code


class Failure:
    """What libvirt's exception offers."""

    def __init__(self, code: int, message: str) -> None:
        self.code, self.message = code, message

    def get_error_code(self) -> int:
        return self.code

    def get_error_message(self) -> str:
        return self.message


@pytest.mark.parametrize(
    ("uid", "code", "message", "hint"),
    [
        (0, Code.NO_CONNECT, "no connection driver available for qemu:///embed", "install libvirt-daemon-driver-qemu"),
        (0, Code.OPERATION_FAILED, "Failed to parse user 'libvirt-qemu'", "install libvirt-daemon-system"),
        (0, Code.OPERATION_FAILED, "Failed to create state dir '/run/libvirt/hostdevmgr'", "mount a tmpfs on /run"),
        (7, Code.OPERATION_FAILED, "Failed to create state dir '/.cache/libvirt/hostdevmgr'", "set XDG_RUNTIME_DIR"),
        (7, Code.INTERNAL_ERROR, "something new", ""),
    ],
)
def test_hint_fits_the_reason(monkeypatch: pytest.MonkeyPatch, uid: int, code: Code, message: str, hint: str) -> None:
    """A package is named only where it is what is missing; libvirt's reason is passed on."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    error = driver.not_started(Failure(code, message), Path("/root"))
    assert message in str(error)
    assert ("install" in error.hint) == ("install" in hint)
    assert hint in error.hint


@pytest.mark.parametrize("runtime", [None, "/nonexistent", "relative"])
def test_folders_are_named_only_while_the_driver_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str | None
) -> None:
    """Without a usable runtime directory or a home it gets those of its root; the environment is then as before."""
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    with driver.folders(tmp_path):
        assert (os.environ["XDG_RUNTIME_DIR"], os.environ["HOME"]) == (str(tmp_path / "runtime"), str(tmp_path))
    assert os.environ.get("XDG_RUNTIME_DIR") == runtime
    assert "HOME" not in os.environ
