"""Between check and opening nobody can put another file in: what QEMU has open is compared with what was checked."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.domain.model import Disk, FileSource, NetworkSource
from orchestrator.images.policy import ImagePolicyError, Policy, confine
from orchestrator.launch.opened import below, opened_files, require_checked
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
    code = "import sys\nkept = []\nfor line in sys.stdin: kept.append(open(line.rstrip())); print(flush=True)"
    with subprocess.Popen(["python3", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def opens(process: subprocess.Popen[bytes], *paths: Path) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    for path in paths:
        process.stdin.write(os.fsencode(path) + b"\n")
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


def test_files_of_our_own(chain: Path, tmp_path: Path, opener: subprocess.Popen[bytes]) -> None:
    """What lies in the launch's own directories may be open; what only begins with the same letters may not."""
    for name in ("own", "own-not"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    opens(opener, tmp_path / "own/f", tmp_path / "own-not/f", chain)
    found = below(opened_files(opener.pid), [str(tmp_path / "own"), str(chain)])
    assert sorted(found.values()) == [str(tmp_path / "own/f"), str(chain)]


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
