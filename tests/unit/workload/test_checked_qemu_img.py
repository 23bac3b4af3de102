"""qemu-img for tools whose images are not trusted: the real one, once all that is named is allowed."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from orchestrator.settings import Settings, to_environ
from orchestrator.workload.checked_qemu_img import first_in_path, images
from tests.images import qcow2

MIB = 1 << 20


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a tool with such a policy, and with a qemu-img that only says what it was asked."""
    (tmp_path / "bin").mkdir()
    real = tmp_path / "bin/qemu-img"
    real.write_text('#!/bin/sh\necho real "$@"\n')
    real.chmod(0o755)
    made = Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run", image_policy="untrusted")
    given = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), **to_environ(made)}
    return dict(first_in_path(given, made))


def asked(environ: dict[str, str], *words: str | Path, fd: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run qemu-img as a tool would."""
    return subprocess.run(
        ["/usr/bin/env", "qemu-img", *map(str, words)], env=environ, capture_output=True, text=True, check=False,
        timeout=60, pass_fds=[] if fd is None else [fd],
    )  # fmt: skip


def test_what_is_allowed_reaches_the_real_one(environ: dict[str, str], tmp_path: Path) -> None:
    """Word by word, and with its status; what is not there is for it to tell."""
    (tmp_path / "raw.img").write_bytes(bytes(MIB))
    command = ("create", "-f", "qcow2", "-o", f"backing_file={tmp_path}/raw.img,backing_fmt=raw", "new.qcow2")
    done = asked(environ, *command)
    assert (done.returncode, done.stdout) == (0, f"real {' '.join(command)}\n"), done.stderr
    assert asked(environ, "info", "nothing").stdout == "real info nothing\n"


@pytest.mark.parametrize("how", ["backing_file", "-b", "info", "descriptor"])
def test_nothing_is_connected_to(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """An image whose backing file is a server's is refused by its name, and the server hears nothing."""
    evil = tmp_path / "evil.qcow2"
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)
        server.bind("nbd")
        server.listen()
        server.setblocking(False)
        evil.write_bytes(qcow2(f"nbd+unix:///x?socket={tmp_path}/nbd", backing_format="raw"))
        with evil.open("rb") as file:
            commands = {
                "backing_file": ("create", "-f", "qcow2", "-o", f"backing_file={evil},backing_fmt=qcow2", "new"),
                "-b": ("create", "-f", "qcow2", "-b", evil, "-F", "qcow2", "new"),
                "info": ("info", "--output", "json", "-f", "qcow2", evil),
                "descriptor": ("info", "-U", "--output", "json", "-f", "qcow2", f"/dev/fd/{file.fileno()}"),
            }
            done = asked(environ, *commands[how], fd=file.fileno())
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (done.returncode, done.stdout) == (1, "")
    assert "its backing file is no local file" in done.stderr
    assert done.stderr.startswith("guestlaunch: cannot use the disk: ")


def test_trusted_images_are_nobodys_business(tmp_path: Path) -> None:
    """Without that policy a tool's PATH is what it was, and nothing is made."""
    made = Settings(state_dir=tmp_path / "state", runtime_dir=tmp_path / "run")
    given = {"PATH": "/usr/bin"}
    assert first_in_path(given, made) is given
    assert not (tmp_path / "state").exists()


def test_names_on_a_command_line() -> None:
    """A comma of a name is doubled; formats go with their images."""
    words = ["create", "-f", "qcow2", "-o", "backing_file=/a,,b,backing_fmt=raw,size=1M", "/new"]
    assert list(images(words)) == [("/a,b", "raw")]
    assert list(images(["info", "-U", "--output", "json", "x"])) == [("x", None)]
    assert list(images(["convert", "-f", "qcow2", "-O", "raw", "a", "b"])) == [("a", "qcow2"), ("b", "qcow2")]
    assert list(images([])) == []
