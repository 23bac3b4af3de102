"""Between check and opening nobody can put another file in: what QEMU has open is compared with what was checked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.model import Disk, FileSource, NetworkSource
from orchestrator.hypervisor.opened import opened_files, own_files, require_checked
from orchestrator.images.policy import ImagePolicyError, Policy, confine
from orchestrator.launch.plan import resolve
from orchestrator.settings import Settings
from tests.images import MIB, qcow2

POLICY = Policy(max_bytes=1 << 40)


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """An image over another one."""
    (tmp_path / "base").write_bytes(bytes(MIB))
    (tmp_path / "top").write_bytes(qcow2("base", backing_format="raw"))
    return tmp_path / "top"


@pytest.fixture
def opener() -> Iterator[subprocess.Popen[bytes]]:
    """A process that opens files as it is told: in QEMU's place."""
    code = """
import os, sys
kept = []
for line in sys.stdin:
    mode, path = line.rstrip().split(" ", 1)
    kept.append(os.open(path, os.O_RDONLY if mode == "r" else os.O_RDWR))
    print(flush=True)
"""
    with subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def opens(process: subprocess.Popen[bytes], *paths: Path, mode: str = "r") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    for path in paths:
        process.stdin.write(mode.encode() + b" " + os.fsencode(path) + b"\n")
        process.stdin.flush()
        process.stdout.readline()


def checked(path: Path) -> Disk:
    confined = confine(str(path), "qcow2", "/", POLICY)
    return Disk(source=FileSource(path=str(path)), graph=confined.graph, identities=tuple(confined.identities))


def test_what_was_checked_is_open(chain: Path, opener: subprocess.Popen[bytes]) -> None:
    """Both files of a chain are open, and nothing besides what was open before."""
    known = opened_files(opener.pid)
    disk = checked(chain)
    opens(opener, chain, chain.parent / "base")
    require_checked(opened_files(opener.pid), [disk], known)


def test_a_file_that_was_exchanged(chain: Path, tmp_path: Path, opener: subprocess.Popen[bytes]) -> None:
    """Another file under a checked name, by renaming or by a link, is noticed; so is one more."""
    known = opened_files(opener.pid)
    disk = checked(chain)
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "base").unlink()
    (tmp_path / "base").symlink_to("secret")
    opens(opener, chain, tmp_path / "base")
    with pytest.raises(ImagePolicyError, match="secret.*was not checked"):
        require_checked(opened_files(opener.pid), [disk], known)
    with pytest.raises(ImagePolicyError, match="exchanged"):
        require_checked(opened_files(opener.pid), [disk], opened_files(opener.pid))


def test_files_of_our_own(tmp_path: Path, opener: subprocess.Popen[bytes]) -> None:
    """What lies in the launch's own folder may be open, and what libvirt names after it; what all share, to be read."""
    names = ("own/f", "own-not/f", "log/gl-1.log", "log/gl-2.log", "code", "code-not", "written")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    opens(opener, *(tmp_path / name for name in names[:-1]))
    opens(opener, tmp_path / "written", mode="r+")
    found = own_files(opened_files(opener.pid), "gl-1", tmp_path / "own", [tmp_path / "code", tmp_path / "written"])
    assert sorted(file.name for file in found) == [str(tmp_path / name) for name in ("code", "log/gl-1.log", "own/f")]


def test_a_known_file_once_more(chain: Path, tmp_path: Path, opener: subprocess.Popen[bytes]) -> None:
    """A disk that leads to a file which QEMU has open anyway is noticed, as is one that leads to a device."""
    (tmp_path / "known").touch()
    opens(opener, tmp_path / "known", Path("/dev/null"))
    known = opened_files(opener.pid)
    disk = checked(chain)
    opens(opener, chain, chain.parent / "base", Path("/dev/null"))
    require_checked(opened_files(opener.pid), [disk], known)
    opens(opener, tmp_path / "known")
    with pytest.raises(ImagePolicyError, match="known.*was not checked"):
        require_checked(opened_files(opener.pid), [disk], known)


def test_devices_and_fifos_count(tmp_path: Path, opener: subprocess.Popen[bytes]) -> None:
    """A character device tells a guest something, and so does a named pipe."""
    before = opened_files(opener.pid)
    os.mkfifo(tmp_path / "fifo")
    opens(opener, Path("/dev/full"))
    opens(opener, tmp_path / "fifo", mode="r+")
    assert sorted(file.name for file in opened_files(opener.pid) - before) == ["/dev/full", str(tmp_path / "fifo")]


def test_who_decides(chain: Path, tmp_path: Path) -> None:
    """Settings that say nothing trust images and leave them to QEMU; untrusted ones are described whole."""
    settings = Settings(state_dir=tmp_path, runtime_dir=tmp_path)
    strict = Settings(state_dir=tmp_path, runtime_dir=tmp_path, image_policy="untrusted")
    disk = Disk(source=FileSource(path=str(chain)), format="qcow2")
    assert resolve(disk, "/", settings) == disk
    assert resolve(disk, "/", strict).graph is not None
    assert len(resolve(disk, "/", strict).identities) == 2
    far = NetworkSource(driver="nbd", options=())
    assert resolve(Disk(source=far), "/", settings) == Disk(source=far)
    assert resolve(Disk(source=far, format="raw"), "/", strict) == Disk(source=far, format="raw")
    for image_format in (None, "qcow2"):
        with pytest.raises(ImagePolicyError, match="network"):
            resolve(Disk(source=far, format=image_format), "/", strict)
