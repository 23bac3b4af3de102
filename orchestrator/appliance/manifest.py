"""The manifest beside an appliance: what it was made of, and whether its files are still those.

The cheap check compares size, mtime and inode; only where they differ is the digest computed. A manifest
is never rewritten after the build.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError
from orchestrator.values import dataclass

if TYPE_CHECKING:
    from orchestrator.remembered import Remembered

NAME = "manifest.json"
SCHEMA_VERSION = 1
_PLAIN, _DATA = "sha256", "sha256-data"
_BLOCK = 1 << 20
REBUILD = "guestlaunch appliance build makes a new one"


class Init(StrEnum):
    """Whose /init the appliance's root has."""

    LEAN = "lean"  # ours: same outcome, few processes
    STOCK = "stock"  # libguestfs's own, to compare with


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One file as it was when the appliance was built. Size in bytes, times in nanoseconds since the epoch."""

    size: int
    mtime_ns: int
    inode: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Record a file, reading all of it."""
        status = path.stat()
        return cls(size=status.st_size, mtime_ns=status.st_mtime_ns, inode=status.st_ino, digest=digest(path))

    def unchanged(self, status: os.stat_result) -> bool:
        """Say whether a file looks untouched, without reading it."""
        return (status.st_size, status.st_mtime_ns, status.st_ino) == (self.size, self.mtime_ns, self.inode)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an appliance was made of.

    :ivar files: kernel, initrd, root; vmlinux, the kernel unpacked, where QEMU can start that.
    :ivar packages: Debian packages in it and their versions.
    :ivar unavailable: packages that libguestfs names for its appliance but that the arch does not have.
    :ivar libguestfs: version of guestfsd and of the library that it fits, `1.48.6`.
    :ivar kernel: kernel version, as `uname -r` says it.
    :ivar modules: drivers in the initrd, in loading order.
    :ivar built: time of the build, ISO 8601, UTC.
    :ivar builder: version of guestlaunch that built it.
    :ivar init: whose init its root has.
    :ivar guest_scripts: digest of our files in it that run in the guest; empty where builds did not record it.
    :ivar recipe: digest of what else it was made by (`recipe`); empty where builds did not record it.
    """

    arch: Arch
    files: Mapping[str, FileRecord]
    packages: Mapping[str, str]
    unavailable: tuple[str, ...]
    libguestfs: str
    kernel: str
    modules: tuple[str, ...]
    root_uuid: str
    built: str
    builder: str
    init: Init = Init.LEAN
    guest_scripts: str = ""
    recipe: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Return the manifest as the text of manifest.json."""
        return json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"


def parse(text: bytes, path: object) -> Manifest:
    """Return the manifest that a text is.

    :param path: what it was read from, for errors.
    :raise ApplianceError: it cannot be understood.
    """
    try:
        return _manifest(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ApplianceError("cannot understand the manifest", path, error, REBUILD) from error


def _manifest(data: dict[str, Any]) -> Manifest:
    if data["schema_version"] != SCHEMA_VERSION:
        raise ValueError(f"schema version {data['schema_version']}, this guestlaunch reads {SCHEMA_VERSION}")
    files = {name: FileRecord(**record) for name, record in data["files"].items()}
    if set(files) - {"vmlinux"} != {"kernel", "initrd", "root"}:
        raise ValueError("does not list exactly kernel, initrd and root, and vmlinux where there is one")
    lists = {name: tuple(data[name]) for name in ("unavailable", "modules")}
    values = {"arch": Arch(data["arch"]), "init": Init(data.get("init", Init.LEAN)), "files": files}
    return Manifest(**{**data, **lists, **values})


def load(directory: Path) -> Manifest | None:
    """Return the manifest of an appliance directory, None where there is none.

    :raise ApplianceError: it is there but cannot be understood.
    """
    path = directory / NAME
    try:
        return parse(path.read_bytes(), path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ApplianceError("cannot read the manifest", path, error.strerror or error) from error


def digest(path: Path) -> str:
    """Return a file's digest: `sha256:HEX`, or `sha256-data:HEX` for a file with holes.

    The latter is the SHA-256 of each block that is not all zero, behind its number: it does not depend
    on where the holes are, and saves hashing gigabytes of nothing.
    """
    with path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if status.st_blocks * 512 >= status.st_size:
            return f"{_PLAIN}:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return _data_digest(file.fileno(), status.st_size)


def _data_digest(descriptor: int, size: int) -> str:
    total = hashlib.sha256(size.to_bytes(8, "little"))
    nothing = bytes(_BLOCK)
    at = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA) // _BLOCK * _BLOCK
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                break
            raise
        block = os.pread(descriptor, _BLOCK, at)
        if block != nothing[: len(block)]:
            total.update((at // _BLOCK).to_bytes(8, "little"))
            total.update(block)
        at += _BLOCK
    return f"{_DATA}:{total.hexdigest()}"


def has_digest(path: Path, wanted: str) -> bool:
    """Compare a file with a digest, in the way in which that was made."""
    if wanted.startswith(f"{_DATA}:"):
        with path.open("rb", buffering=0) as file:
            return _data_digest(file.fileno(), os.fstat(file.fileno()).st_size) == wanted
    with path.open("rb") as file:
        return f"{_PLAIN}:{hashlib.file_digest(file, 'sha256').hexdigest()}" == wanted


def check_file(path: Path, record: FileRecord, *, deep: bool, verified: Remembered | None = None) -> None:
    """Check one file against its record; reads it whole only if `deep` or if it looks touched.

    :param verified: knows of files that look touched and were read whole before.

    :raise ApplianceError: it is missing, truncated, grown or changed.
    """
    try:
        status = path.stat()
        if status.st_size != record.size:
            kind = "truncated" if status.st_size < record.size else "grown"
            why = f"{kind}: {status.st_size} bytes, built with {record.size}"
            raise ApplianceError("the appliance is damaged", path, why, REBUILD)
        if not deep and (record.unchanged(status) or (verified and verified.of(status) == record.digest)):
            return
        if not has_digest(path, record.digest):
            raise ApplianceError("the appliance is damaged", path, "changed since it was built", REBUILD)
        if verified is not None and not record.unchanged(status):
            verified.note(status, record.digest)
    except OSError as error:
        raise ApplianceError("the appliance is damaged", path, error.strerror or error, REBUILD) from error


def short_version(version: str) -> str:
    """Return major.minor.release of a libguestfs version, without what distributions add.

    :raise ApplianceError: it is no such version.
    """
    found = re.match(r"(\d+\.\d+\.\d+)", version)
    if found is None:
        raise ApplianceError("cannot understand the libguestfs version", version, "not major.minor.release")
    return found[1]
