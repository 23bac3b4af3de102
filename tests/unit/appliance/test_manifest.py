"""The manifest: what it says of files, and what is found out about files that differ from it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from orchestrator.appliance import manifest as manifests
from orchestrator.appliance.manifest import FileRecord, Init, Manifest, check_file, digest, load, short_version
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError
from orchestrator.remembered import Remembered


def sample(files: dict[str, FileRecord]) -> Manifest:
    return Manifest(
        arch=Arch.AARCH64,
        files=files,
        packages={"lvm2": "2.03.16-2"},
        unavailable=("syslinux",),
        libguestfs="1.48.6",
        kernel="6.1.0-1-arm64",
        modules=("ext4",),
        root_uuid="3ab85e0e-01f0-4193-8588-982f51bab0ba",
        built="2026-01-02T03:04:05Z",
        builder="0.1.0",
    )


def records(folder: Path) -> dict[str, FileRecord]:
    for name in ("kernel", "initrd", "root"):
        (folder / name).write_bytes(name.encode() * 100)
    return {name: FileRecord.of(folder / name) for name in ("kernel", "initrd", "root")}


def test_round_trip(tmp_path: Path) -> None:
    """What is written is what is read."""
    manifest = sample(records(tmp_path))
    (tmp_path / manifests.NAME).write_text(manifest.to_json())
    assert load(tmp_path) == manifest


def test_older_manifest(tmp_path: Path) -> None:
    """One from before inits could be chosen is a lean appliance's, of unknown guest scripts."""
    manifest = json.loads(sample(records(tmp_path)).to_json())
    del manifest["init"], manifest["guest_scripts"]
    (tmp_path / manifests.NAME).write_text(json.dumps(manifest))
    read = load(tmp_path)
    assert read is not None
    assert (read.init, read.guest_scripts) == (Init.LEAN, "")


def test_no_manifest(tmp_path: Path) -> None:
    """A directory without a manifest has none, which is no error."""
    assert load(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99}', "null"])
def test_bad_manifest(tmp_path: Path, text: str) -> None:
    """Whatever cannot be understood is one error that names the file."""
    (tmp_path / manifests.NAME).write_text(text)
    with pytest.raises(ApplianceError, match=manifests.NAME):
        load(tmp_path)


def test_other_schema_is_named(tmp_path: Path) -> None:
    """A manifest of another schema version is refused in words that say which."""
    data = json.loads(sample(records(tmp_path)).to_json())
    data["schema_version"] = 7
    (tmp_path / manifests.NAME).write_text(json.dumps(data))
    with pytest.raises(ApplianceError, match="schema version 7"):
        load(tmp_path)


def test_plain_digest_is_sha256(tmp_path: Path) -> None:
    """The digest of a file without holes is what sha256sum prints."""
    path = tmp_path / "kernel"
    path.write_bytes(b"abc" * 5000)
    os.sync()
    assert digest(path) == f"sha256:{hashlib.sha256(b'abc' * 5000).hexdigest()}"


def sparse(path: Path, *, holes: bool) -> Path:
    size = 64 << 20
    with path.open("wb") as file:
        if holes:
            file.truncate(size)
        else:
            file.write(bytes(size))
        for at in (0, 5 << 20, (40 << 20) + 123):
            file.seek(at)
            file.write(b"data")
    return path


def test_digest_does_not_depend_on_holes(tmp_path: Path) -> None:
    """A copy that lost its holes still fits the digest of the file that had them."""
    with_holes = sparse(tmp_path / "holes", holes=True)
    full = sparse(tmp_path / "full", holes=False)
    record = FileRecord.of(with_holes)
    assert record.digest.startswith("sha256-data:")
    check_file(full, record, deep=True)


def test_digest_sees_a_moved_block(tmp_path: Path) -> None:
    """The same data elsewhere in a sparse file is another file."""
    path = sparse(tmp_path / "root", holes=True)
    record = FileRecord.of(path)
    with path.open("r+b") as file:
        file.seek(5 << 20)
        file.write(bytes(4))
        file.seek(6 << 20)
        file.write(b"data")
    with pytest.raises(ApplianceError, match="changed"):
        check_file(path, record, deep=True)


def test_untouched_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check on each launch reads nothing while size, mtime and inode are as they were."""
    record = records(tmp_path)["kernel"]
    monkeypatch.setattr(manifests, "has_digest", lambda *_: pytest.fail("the file was read"))
    check_file(tmp_path / "kernel", record, deep=False)


def test_touched_but_same_file_passes(tmp_path: Path) -> None:
    """A file with another mtime but the same content is accepted."""
    record = records(tmp_path)["kernel"]
    os.utime(tmp_path / "kernel", (1, 1))
    check_file(tmp_path / "kernel", record, deep=False)


def test_a_copy_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that looks touched is read whole the first time, and again when anything of it has changed since."""
    record = records(tmp_path)["kernel"]
    os.utime(tmp_path / "kernel", (1, 1))
    read: list[Path] = []
    true = manifests.has_digest

    def has_digest(path: Path, wanted: str) -> bool:
        read.append(path)
        return true(path, wanted)

    monkeypatch.setattr(manifests, "has_digest", has_digest)
    for _ in range(3):
        check_file(tmp_path / "kernel", record, deep=False, verified=Remembered(tmp_path / "cache/verified.json"))
    assert len(read) == 1
    os.utime(tmp_path / "kernel", (1, 1))  # its ctime tells
    check_file(tmp_path / "kernel", record, deep=False, verified=Remembered(tmp_path / "cache/verified.json"))
    assert len(read) == 2
    with (tmp_path / "kernel").open("r+b") as file:
        file.write(b"K")
    os.utime(tmp_path / "kernel", (1, 1))
    with pytest.raises(ApplianceError, match="changed"):
        check_file(tmp_path / "kernel", record, deep=False, verified=Remembered(tmp_path / "cache/verified.json"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "x" * 100_000])
def test_what_is_remembered_may_be_damaged(tmp_path: Path, text: str) -> None:
    """A file of nonsense, or in a folder that others can write to, is as good as none."""
    record = records(tmp_path)["kernel"]
    os.utime(tmp_path / "kernel", (1, 1))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/verified.json").write_text(text)
    check_file(tmp_path / "kernel", record, deep=False, verified=Remembered(tmp_path / "cache/verified.json"))
    status = (tmp_path / "kernel").stat()
    assert Remembered(tmp_path / "cache/verified.json").of(status) == record.digest
    (tmp_path / "cache").chmod(0o777)
    assert Remembered(tmp_path / "cache/verified.json").of(status) is None


def test_changed_file_is_refused(tmp_path: Path) -> None:
    """A byte changed in place is found, without asking for a deep check."""
    record = records(tmp_path)["kernel"]
    with (tmp_path / "kernel").open("r+b") as file:
        file.write(b"K")
    os.utime(tmp_path / "kernel", (1, 1))
    with pytest.raises(ApplianceError, match=r"kernel: changed.*appliance build"):
        check_file(tmp_path / "kernel", record, deep=False)


def test_changed_file_with_its_old_times(tmp_path: Path) -> None:
    """A change that hides behind the old mtime is found by the deep check."""
    record = records(tmp_path)["kernel"]
    with (tmp_path / "kernel").open("r+b") as file:
        file.write(b"K")
    os.utime(tmp_path / "kernel", ns=(record.mtime_ns, record.mtime_ns))
    check_file(tmp_path / "kernel", record, deep=False)
    with pytest.raises(ApplianceError, match="changed"):
        check_file(tmp_path / "kernel", record, deep=True)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    """A file that lost its end is called truncated, with both sizes."""
    record = records(tmp_path)["initrd"]
    os.truncate(tmp_path / "initrd", 10)
    with pytest.raises(ApplianceError, match="truncated: 10 bytes, built with 600"):
        check_file(tmp_path / "initrd", record, deep=False)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is gone is named."""
    record = records(tmp_path)["root"]
    (tmp_path / "root").unlink()
    with pytest.raises(ApplianceError, match="root: No such file"):
        check_file(tmp_path / "root", record, deep=False)


def test_short_version() -> None:
    """What distributions add to a version does not count."""
    assert short_version("1.48.6rhel=9,release=3.el9") == "1.48.6"
    with pytest.raises(ApplianceError, match="one point five"):
        short_version("one point five")
