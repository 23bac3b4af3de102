"""Where appliances live: builds side by side, killed builds, removal while in use."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.appliance.manifest import Init
from orchestrator.appliance.store import appliances, publish, remove, resolve, staging, sweep
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError, NotFoundError

ARCH = Arch.AARCH64


def fill(folder: Path) -> None:
    """Put into a folder what is enough to be taken for an appliance without manifest."""
    kernel = bytearray(4096)
    kernel[0x38:0x3C] = b"ARM\x64"
    (folder / "kernel").write_bytes(kernel)
    (folder / "initrd").write_bytes(b"\x1f\x8b" + bytes(100))
    (folder / "root").write_bytes(b"QFI\xfb" + bytes(4096))


def build(store: Path, number: int, init: Init = Init.LEAN) -> Path:
    with staging(store, ARCH, init) as scratch:
        out = scratch / "out"
        out.mkdir()
        fill(out)
        return publish(store, ARCH, out, f"20260101T00000{number}-abcd", init)


def names(store: Path) -> set[str]:
    return {path.name for path in (store / ARCH).iterdir()}


def test_nothing_built(tmp_path: Path) -> None:
    """An empty store has no appliance, and says how to make one."""
    assert appliances(tmp_path) == []
    with pytest.raises(NotFoundError, match="appliance build --arch aarch64"):
        resolve(tmp_path, ARCH)
    with pytest.raises(NotFoundError):
        remove(tmp_path, ARCH)


def test_publish_makes_current(tmp_path: Path) -> None:
    """The last build is the one that is resolved; the one before stays, older ones go."""
    built = [build(tmp_path, number) for number in range(4)]
    assert resolve(tmp_path, ARCH).path == built[3]
    assert names(tmp_path) == {"current", built[2].name, built[3].name}
    assert [one.path for one in appliances(tmp_path)] == [built[3]]


def test_stock_init_is_kept_apart(tmp_path: Path) -> None:
    """An appliance with libguestfs's own init is never what launches get, and neither kind's end is the other's."""
    lean, stock = build(tmp_path, 1), build(tmp_path, 2, Init.STOCK)
    assert resolve(tmp_path, ARCH).path == lean
    assert resolve(tmp_path, ARCH, Init.STOCK).path == stock
    assert [one.path for one in appliances(tmp_path)] == [lean, stock]
    assert remove(tmp_path, ARCH) == [lean]
    with pytest.raises(NotFoundError, match=r"appliance build --arch aarch64 makes"):
        resolve(tmp_path, ARCH)
    assert remove(tmp_path, ARCH, Init.STOCK) == [stock]
    with pytest.raises(NotFoundError, match=r"aarch64 with stock init.*--arch aarch64 --init stock makes"):
        resolve(tmp_path, ARCH, Init.STOCK)


def test_held_builds_stay(tmp_path: Path) -> None:
    """A build that a launch holds survives later builds."""
    first = build(tmp_path, 0)
    with holder(first):
        for number in range(1, 4):
            build(tmp_path, number)
        assert (first / "kernel").exists()
    build(tmp_path, 4)
    assert not first.exists()


def holder(directory: Path) -> subprocess.Popen[bytes]:
    """Start a process that holds an appliance, as a launch does, until its standard input ends."""
    program = (
        "import sys; from pathlib import Path; from orchestrator.locks import locked\n"
        "with locked(Path(sys.argv[1]), exclusive=False, wait=False) as lock:\n"
        " print(lock, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    return process


def test_remove_refuses_while_in_use(tmp_path: Path) -> None:
    """An appliance that a launch holds is not removed; afterwards it is."""
    directory = build(tmp_path, 0)
    with holder(directory), pytest.raises(ApplianceError, match="in use|using"):
        remove(tmp_path, ARCH)
    assert resolve(tmp_path, ARCH).path == directory
    assert remove(tmp_path, ARCH) == [directory]
    assert names(tmp_path) == set()


def test_failed_build_leaves_nothing(tmp_path: Path) -> None:
    """Whatever a build that fails has made is gone, even what may not be entered."""

    def fail() -> None:
        with staging(tmp_path, ARCH) as scratch:
            (scratch / "tree" / "closed").mkdir(parents=True)
            (scratch / "tree" / "closed" / "file").touch()
            (scratch / "tree" / "closed").chmod(0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == set()


def test_builds_side_by_side(tmp_path: Path) -> None:
    """Two builds at once do not see each other; the last to finish is current."""
    with staging(tmp_path, ARCH) as one, staging(tmp_path, ARCH) as two:
        assert one != two
        for scratch in (one, two):
            (scratch / "out").mkdir()
            fill(scratch / "out")
        publish(tmp_path, ARCH, two / "out", "20260101T000001-abcd")
        first = publish(tmp_path, ARCH, one / "out", "20260101T000000-abcd")
    assert resolve(tmp_path, ARCH).path == first
    assert names(tmp_path) == {"current", "20260101T000000-abcd", "20260101T000001-abcd"}


@pytest.fixture
def building(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in the middle of a build."""
    program = (
        "import sys, time; from pathlib import Path; from orchestrator.appliance.store import staging\n"
        "from orchestrator.domain.model import Arch\n"
        "with staging(Path(sys.argv[1]), Arch.AARCH64) as scratch:\n"
        " (scratch / 'half').write_bytes(b'x'); print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_leaves_nothing(
    tmp_path: Path, building: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    """SIGINT and SIGTERM end a build without leaving anything."""
    building.send_signal(number)
    assert building.wait(10) != 0
    assert names(tmp_path) == set()


def test_killed_build_is_swept(tmp_path: Path, building: subprocess.Popen[bytes]) -> None:
    """What SIGKILL left behind goes with the next look, but not while its builder lives."""
    assert sweep(tmp_path) == []
    assert len(names(tmp_path)) == 1
    building.kill()
    building.wait()
    deadline = time.monotonic() + 10
    while not sweep(tmp_path):
        assert time.monotonic() < deadline
    assert names(tmp_path) == set()


def test_sigterm_is_as_before(tmp_path: Path) -> None:
    """After a build, SIGTERM does what it did before."""
    before = signal.getsignal(signal.SIGTERM)
    with staging(tmp_path, ARCH):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_store_below_a_file(tmp_path: Path) -> None:
    """A store that cannot be made is an error that names it."""
    (tmp_path / "file").touch()
    with pytest.raises(ApplianceError, match="file/aarch64"), staging(tmp_path / "file", ARCH):
        pytest.fail("staged")
