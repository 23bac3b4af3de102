"""An appliance in one file: what goes in comes out, and nothing else than what an export writes is believed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.appliance import manifest as manifests
from orchestrator.appliance.archive import export_appliance, import_appliance
from orchestrator.appliance.fixed import open_appliance, verify
from orchestrator.appliance.manifest import FileRecord, Init, Manifest
from orchestrator.appliance.model import Appliance
from orchestrator.appliance.store import publish, resolve, staging
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError

ROOT_MIB = 8  # nearly all of it a hole
HOST = "1.48.6"


@pytest.fixture
def built(tmp_path: Path) -> Appliance:
    """An appliance in a store, with a hole in its root."""
    store = tmp_path / "here"
    with staging(store, Arch.AARCH64) as scratch:
        out = scratch / "out"
        out.mkdir()
        kernel = bytearray(5000)
        kernel[0x38:0x3C] = b"ARM\x64"
        (out / "kernel").write_bytes(kernel)
        (out / "initrd").write_bytes(b"\x1f\x8b" + os.urandom(1000))
        with (out / "root").open("wb") as root:
            root.seek(0x438)
            root.write(b"\x53\xef")
            root.seek(5 << 20)
            root.write(os.urandom(2 << 20))
            root.truncate(ROOT_MIB << 20)
        (out / "README.fixed").write_text("an appliance\n")
        made = Manifest(
            arch=Arch.AARCH64,
            files={name: FileRecord.of(out / name) for name in ("kernel", "initrd", "root")},
            packages={"base-files": "12.4"},
            unavailable=("zfs-fuse",),
            libguestfs=HOST,
            kernel="6.1.0",
            modules=("ext4",),
            root_uuid="0",
            built="2026-01-02T03:04:05Z",
            builder="0.1.0",
        )
        (out / manifests.NAME).write_text(made.to_json())
        return open_appliance(publish(store, Arch.AARCH64, out, "20260102T030405-abcd"))


@pytest.fixture
def archive(built: Appliance, tmp_path: Path) -> Path:
    """The appliance, exported."""
    export_appliance(built, tmp_path / "a.tar.zst")
    return tmp_path / "a.tar.zst"


def left(folder: Path) -> list[Path]:
    """Return the files below a folder."""
    return [path for path in folder.rglob("*") if not path.is_dir()]


def test_there_and_back(built: Appliance, archive: Path, tmp_path: Path) -> None:
    """What is imported is what was exported, holes and all, and is what launches get; a launch need not read it."""
    store = tmp_path / "there"
    made = import_appliance(archive, store, host=HOST)
    assert made.path == resolve(store, Arch.AARCH64).path
    for name in ("kernel", "initrd", "root", "README.fixed"):
        assert (made.path / name).read_bytes() == (built.path / name).read_bytes()
        assert (made.path / name).stat().st_mode & 0o777 == 0o644
    assert made.root.stat().st_blocks * 512 < 4 << 20
    verify(made, deep=True)
    assert made.manifest is not None
    assert built.manifest is not None
    for name, record in made.manifest.files.items():
        assert record.unchanged((made.path / name).stat())
    assert replace(made.manifest, files={}) == replace(built.manifest, files={})


def test_anybody_can_look_into_it(archive: Path) -> None:
    """It is a plain tar archive, the manifest first, all of it root's."""
    unpacked = subprocess.run(["zstd", "-dcq", archive], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(unpacked)) as tar:
        assert tar.getnames() == ["manifest.json", "README.fixed", "kernel", "initrd", "root"]
        assert {(member.uid, member.mode) for member in tar} == {(0, 0o644)}


def test_through_a_pipe(built: Appliance, tmp_path: Path) -> None:
    """`export - | import -` needs no file between."""
    program = """
import sys
from pathlib import Path
from orchestrator.appliance.archive import export_appliance, import_appliance
from orchestrator.appliance.fixed import open_appliance
if sys.argv[1] == "export":
    export_appliance(open_appliance(Path(sys.argv[2])), None)
else:
    import_appliance(None, Path(sys.argv[2]), host=None)
"""
    store = tmp_path / "there"
    shell = '"$0" -c "$1" export "$2" | "$0" -c "$1" import "$3"'
    subprocess.run(["sh", "-c", shell, sys.executable, program, built.path, store], check=True, timeout=60)
    assert resolve(store, Arch.AARCH64).kernel.read_bytes() == built.kernel.read_bytes()


def test_for_another_libguestfs(archive: Path, tmp_path: Path) -> None:
    """A host with another libguestfs is told which appliance it needs; one without any takes what comes."""
    with pytest.raises(ApplianceError, match=r"made for libguestfs 1\.48\.6, this host has 1\.56\.2") as raised:
        import_appliance(archive, tmp_path / "there", host="1.56.2")
    assert "it needs an aarch64 appliance for libguestfs 1.56.2" in str(raised.value)
    assert not (tmp_path / "there").exists()
    import_appliance(archive, tmp_path / "there", host=None)


def test_the_one_that_was_meant(built: Appliance, tmp_path: Path) -> None:
    """Who knows the digest gets that appliance or none."""
    done = export_appliance(built, tmp_path / "a")
    import_appliance(tmp_path / "a", tmp_path / "there", host=None, digest=done.digest)
    with pytest.raises(ApplianceError, match="the digest of its manifest is sha256:"):
        import_appliance(tmp_path / "a", tmp_path / "other", host=None, digest="sha256:0")
    assert left(tmp_path / "other") == []


def test_what_cannot_be_exported(built: Appliance, tmp_path: Path) -> None:
    """A damaged appliance, one without a manifest, a name that is taken: one line, and no file."""
    target = tmp_path / "out" / "a"
    target.parent.mkdir()
    target.write_text("mine")
    with pytest.raises(ApplianceError, match="there is a file of that name"):
        export_appliance(built, target)
    assert target.read_text() == "mine"
    target.unlink()
    with pytest.raises(ApplianceError, match="No such file or directory"):
        export_appliance(built, tmp_path / "nowhere" / "a")
    with pytest.raises(ApplianceError, match="no manifest"):
        export_appliance(replace(built, manifest=None), target)
    built.initrd.write_bytes(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(ApplianceError, match="changed since it was built"):
        export_appliance(built, target)
    assert left(target.parent) == []


def pack(path: Path, data: bytes) -> Path:
    subprocess.run(["zstd", "-q", "-f", "-o", path], input=data, check=True)
    return path


def member(name: str, data: bytes, **changes: bytes | str) -> bytes:
    """Return a member of a tar archive."""
    made = tarfile.TarInfo(name)
    made.size = len(data)
    for key, value in changes.items():
        setattr(made, key, value)
    return made.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def whole(built: Appliance, **changes: bytes) -> bytes:
    """Return an archive, unpacked, with some members replaced (`kernel=b"..."`)."""
    names = {"manifest": "manifest.json", "readme": "README.fixed"}
    text = b""
    for key in ("manifest", "readme", "kernel", "initrd", "root"):
        name = names.get(key, key)
        text += changes.get(key) or member(name, (built.path / name).read_bytes())
    return text + changes.get("end", bytes(1024))


def described(built: Appliance, change: Callable[[dict[str, Any]], None]) -> bytes:
    data = json.loads((built.path / manifests.NAME).read_text())
    change(data)
    return member("manifest.json", json.dumps(data).encode())


CASES: dict[str, tuple[Callable[[Appliance], dict[str, bytes]], str]] = {
    "path": (lambda _: {"kernel": member("../../kernel", b"x")}, r"has the file \.\./\.\./kernel where kernel belongs"),
    "absolute": (lambda _: {"kernel": member("/etc/passwd", b"x")}, "where kernel belongs"),
    "symlink": (
        lambda _: {"kernel": member("kernel", b"", type=tarfile.SYMTYPE, linkname="/etc/shadow")},
        "something that is no file, kernel where kernel belongs",
    ),
    "hard link": (
        lambda _: {"root": member("root", b"", type=tarfile.LNKTYPE, linkname="/etc/shadow")},
        "something that is no file",
    ),
    "device": (lambda _: {"initrd": member("initrd", b"", type=tarfile.BLKTYPE)}, "something that is no file"),
    "folder": (lambda _: {"initrd": member("initrd", b"", type=tarfile.DIRTYPE)}, "something that is no file"),
    "extended header": (
        lambda _: {"kernel": member("kernel", b"30 path=../../../etc/passwd\n", type=tarfile.XHDTYPE)},
        "something that is no file",
    ),
    "twice": (lambda one: {"initrd": member("kernel", one.kernel.read_bytes())}, "has the file kernel where initrd"),
    "missing": (lambda _: {"kernel": bytes(512)}, "has no kernel"),
    "more": (lambda _: {"end": member("another", b"x") + bytes(1024)}, "more in it than an appliance"),
    "no end": (lambda _: {"end": bytes(1)}, "truncated"),
    "no archive": (lambda _: {"manifest": b"hello" * 1000}, "not an archive of guestlaunch's"),
    "other content": (
        lambda one: {"initrd": member("initrd", bytes(one.initrd.stat().st_size))},
        "initrd does not have the digest",
    ),
    "other size": (lambda _: {"kernel": member("kernel", b"x")}, "kernel has 1 bytes, its manifest says 5000"),
    "no manifest": (lambda _: {"manifest": member("manifest.json", b"[]")}, "cannot understand the manifest"),
    "huge manifest": (lambda _: {"manifest": member("manifest.json", bytes(2 << 20))}, "the most is"),
    "huge file": (
        lambda one: {"manifest": described(one, lambda data: data["files"]["root"].update(size=1 << 50))},
        "root would have 1125899906842624 bytes",
    ),
    "negative size": (
        lambda one: {"manifest": described(one, lambda data: data["files"]["root"].update(size=-1))},
        "root would have -1 bytes",
    ),
    "another name": (
        lambda one: {"manifest": described(one, lambda data: data["files"].update({"../x": data["files"]["root"]}))},
        "does not list exactly",
    ),
    "terminal's words": (
        lambda one: {"manifest": described(one, lambda data: data.update(kernel="6\x1b[2J"))},
        "where a printable text belongs",
    ),
    "no version": (
        lambda one: {"manifest": described(one, lambda data: data.update(libguestfs="../../x"))},
        "its manifest says libguestfs",
    ),
    "another arch": (
        lambda one: {"manifest": described(one, lambda data: data.update(arch="x86_64"))},
        "aarch64 kernel in an x86_64 appliance",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_believed(built: Appliance, tmp_path: Path, case: str) -> None:
    """Names that lead elsewhere, links, devices, sizes and contents that are not the manifest's: nothing stays."""
    change, why = CASES[case]
    store = tmp_path / "there"
    path = pack(tmp_path / "bad", whole(built, **change(built)))
    before = {one: one.read_bytes() for one in left(built.path)}
    with pytest.raises(ApplianceError, match=why):
        import_appliance(path, store, host=None)
    assert left(store) == []
    assert {one: one.read_bytes() for one in left(built.path)} == before


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_cut_off(archive: Path, tmp_path: Path, share: float) -> None:
    """An archive that came only in part is none; the line says why in words of the one who noticed."""
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        ApplianceError, match=r"truncated|premature end|unexpected end|incomplete|unknown header"
    ) as raised:
        import_appliance(archive, tmp_path / "there", host=None)
    assert "export it again" in str(raised.value)
    assert left(tmp_path / "there") == []


def test_no_archive(tmp_path: Path) -> None:
    """What is no archive at all, or not there: one line."""
    (tmp_path / "text").write_text("hello")
    for name in ("text", "nowhere", "."):
        with pytest.raises(ApplianceError, match="cannot import the appliance"):
            import_appliance(tmp_path / name, tmp_path / "there", host=None)


LIMITED = """
import resource, sys
from pathlib import Path
from orchestrator.appliance.archive import export_appliance, import_appliance
from orchestrator.appliance.fixed import open_appliance
from orchestrator.errors import ApplianceError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if sys.argv[1] == "export":
        export_appliance(open_appliance(Path(sys.argv[2])), Path(sys.argv[3]))
    else:
        import_appliance(Path(sys.argv[2]), Path(sys.argv[3]), host=None)
except ApplianceError as error:
    sys.exit(str(error))
"""


def test_no_room(built: Appliance, archive: Path, tmp_path: Path) -> None:
    """Where a file cannot grow any further, either direction ends with one line, and nothing is left."""
    for words in (("export", built.path, tmp_path / "full"), ("import", archive, tmp_path / "there")):
        command = [sys.executable, "-c", LIMITED, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"cannot {words[0]} the appliance: ")
        assert len(done.stderr.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith((".", "full"))]
    assert left(tmp_path / "there") == []


def test_interrupted(built: Appliance, archive: Path, tmp_path: Path) -> None:
    """Ended while it reads or writes, by either signal, it leaves nothing."""
    out, store = tmp_path / "out", tmp_path / "there"
    out.mkdir()
    data = archive.read_bytes()
    program = """
import signal, sys
from pathlib import Path
from orchestrator.appliance.archive import import_appliance
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the tests were started with
import_appliance(None, Path(sys.argv[1]), host=None)
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", program, store], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            process.stdin.write(data[: len(data) // 2])
            process.stdin.flush()
            deadline = time.monotonic() + 60
            while not list(store.glob("*/.building-*/out/root")):  # half of it is there
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            while process.poll() is None:  # one that comes in the instant before a read that waits is seen after it
                assert time.monotonic() < deadline
                process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
        assert process.returncode != 0
        assert left(store) == []
    assert hashlib.sha256(archive.read_bytes()).digest() == hashlib.sha256(data).digest()
    assert built.init is Init.LEAN
