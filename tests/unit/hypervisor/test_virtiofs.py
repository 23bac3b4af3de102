"""Who serves a directory by virtiofs: found by its descriptor, started where it cannot write, ended."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import LaunchError
from orchestrator.hypervisor import virtiofs


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """What QEMU would connect to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as made:
        made.bind(str(tmp_path / "s"))
        made.listen(1)
        yield made


READY = virtiofs._READY


def program(folder: Path, text: str) -> Path:
    """Return a program that stands for virtiofsd."""
    path = folder / "virtiofsd"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_which_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the first descriptor of its kind whose program is there; or where one usually is."""
    there = program(tmp_path, "")
    folders = (tmp_path / "etc", tmp_path / "usr")
    monkeypatch.setattr(virtiofs, "_DESCRIPTORS", folders)
    monkeypatch.setattr(virtiofs, "_USUAL", ("/nonexistent/virtiofsd",))
    assert virtiofs.find_program() is None
    folders[1].mkdir()
    for name, said in (
        ("1", {"type": "gpu", "binary": "/bin/sh"}), ("2", {"type": "fs", "binary": "/nonexistent"}),
        ("3", []), ("4", {"type": "fs", "binary": str(there)}),
    ):  # fmt: skip
        (folders[1] / f"{name}.json").write_text(json.dumps(said))
    (folders[1] / "0.json").write_text("{")
    assert virtiofs.find_program() == there
    monkeypatch.setattr(virtiofs, "_DESCRIPTORS", ())
    monkeypatch.setattr(virtiofs, "_USUAL", (str(there),))
    assert virtiofs.find_program() == there


def test_what_it_serves_is_read_only(tmp_path: Path, listener: socket.socket) -> None:
    """It cannot write there, whatever its guest asks of it; and it is ended with the block."""
    served = tmp_path / "served"
    served.mkdir()
    result, number = tmp_path / "result", tmp_path / "pid"
    script = f"touch {served}/new 2>{result}; echo $$ >{number}; echo {READY} >&2; exec sleep 60"
    if subprocess.run(["unshare", "--mount", "--user", "--map-root-user", "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    with virtiofs.serving(program(tmp_path, script), served, listener):
        pid = int(number.read_text())
        assert Path(f"/proc/{pid}").exists()
        assert listener.fileno() < 0
    assert "Read-only file system" in result.read_text()
    assert not list(served.iterdir())
    assert not Path(f"/proc/{pid}").exists()


def test_one_that_ends_at_once(tmp_path: Path, listener: socket.socket) -> None:
    """It is said with its own last words."""
    served = tmp_path / "served"
    served.mkdir()
    with (
        pytest.raises(LaunchError, match="no such option.*--share-by 9p"),
        virtiofs.serving(program(tmp_path, "echo no such option >&2; exit 1"), served, listener),
    ):
        pass
