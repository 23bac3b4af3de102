"""Hands files to a QEMU that may open none by itself: each as a descriptor, which QEMU calls `/dev/fdset/N`.

An image may refer to others. Where its header says plainly to which, as qcow2's does of backing files, they are handed
over with it; an image that may refer to anything else can be opened only as QEMU starts. Of an untrusted image, those
are handed over that were checked.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.model import Disk, FileSource, Handed
from orchestrator.errors import DiskError
from orchestrator.files import open_image
from orchestrator.hypervisor.guest import Guest
from orchestrator.images.header import BadImageError, Header
from orchestrator.images.policy import ImagePolicyError
from orchestrator.images.reading import read_header

_ONE_FILE = frozenset({"raw", "luks", "vdi", "vpc", "vhdx", "parallels", "bochs", "cloop"})
_LONGEST_CHAIN = 200


class _Obstacle(Exception):  # noqa: N818 - it is a reason, and never leaves this module
    """Why the files of an image are not all known: some may be anywhere, even on the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The files of an image, its own first.

    :ivar obstacle: why they are not all known, and may be on the network; None when they are known.
    """

    files: tuple[str, ...]
    obstacle: str | None = None


def chain_of(disk: Disk) -> ImageFiles:
    """Return the files that QEMU will open for a disk. Errors of reading are QEMU's to report."""
    if not isinstance(disk.source, FileSource):
        return ImageFiles(files=(), obstacle="a disk is reached over the network")
    if disk.options:
        return ImageFiles(files=(disk.source.path,), obstacle=f"{disk.source.path}: files are named for QEMU to open")
    files: list[str] = []
    try:
        with contextlib.suppress(OSError):
            walked = _walk(disk.source.path, disk.format) if disk.graph is None else _checked(disk.graph)
            files.extend(walked)
    except _Obstacle as obstacle:
        return ImageFiles(files=tuple(files), obstacle=str(obstacle))
    return ImageFiles(files=tuple(files))


def _walk(path: str, image_format: str | None) -> Iterator[str]:
    """Yield an image's file, and those of its backing chain."""
    for _ in range(_LONGEST_CHAIN):
        yield path
        if image_format in _ONE_FILE:
            return
        header = _header(path, image_format)
        if header.format in _ONE_FILE:
            return
        if header.format != "qcow2":
            raise _Obstacle(f"{path}: an image of format {header.format} may refer to other files")
        if header.data is not None:
            raise _Obstacle(f"{path}: its data are in another file")
        if header.backing is None:
            return
        if ":" in header.backing.partition("/")[0]:
            raise _Obstacle(f"{path}: its backing file is not named by a path alone")
        path, image_format = str(Path(path).parent / header.backing), header.backing_format
    raise _Obstacle(f"{path}: its backing chain is too long")


def _checked(graph: str) -> Iterator[str]:
    """Yield the file of each image in the block graph of a disk that was checked, from its top down."""
    node = json.loads(graph)
    while node is not None:
        path = node["file"]["filename"]
        yield path
        if node["driver"] == "vmdk":
            raise _Obstacle(f"{path}: an image of format vmdk may refer to other files")
        if "data-file" in node:
            raise _Obstacle(f"{path}: its data are in another file")
        node = node.get("backing")


def _header(path: str, image_format: str | None) -> Header:
    descriptor = open_image(path)
    try:
        return read_header(descriptor, image_format)
    except BadImageError as error:
        raise _Obstacle(f"{path}: {error}") from None
    finally:
        os.close(descriptor)


def hand_over(guest: Guest, disk: Disk) -> tuple[Handed, ...]:
    """Open the files of a disk and give them to QEMU; return what QEMU is to call them.

    Nobody keeps them open but QEMU: its locks are on the open files, and go with it.

    :raise DiskError: a file cannot be opened, or what the image refers to cannot be handed over.
    :raise ImagePolicyError: another file has taken the place of one that was checked.
    :raise MonitorError: QEMU does not take one.
    """
    chain = chain_of(disk)
    if chain.obstacle is not None:
        why, hint = chain.obstacle, "GUESTLAUNCH_START=cold opens it as QEMU starts"
        raise DiskError("cannot hand over the disk", next(iter(chain.files), "on the network"), why, hint)
    handed = []
    for depth, path in enumerate(chain.files):
        writable = depth == 0 and not disk.readonly
        try:
            descriptor = open_image(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            raise DiskError("cannot open the disk", path, error.strerror or error) from error
        try:
            status = os.fstat(descriptor)
            if disk.graph is not None and (status.st_dev, status.st_ino) not in disk.identities:
                why = "image policy untrusted: it was exchanged after it was checked"
                raise ImagePolicyError("cannot hand over the disk", path, why)
            block_device = stat.S_ISBLK(status.st_mode)
            added = guest.qmp("add-fd", {"opaque": path}, files=[descriptor])
        finally:
            os.close(descriptor)
        handed.append(Handed(path=path, name=f"/dev/fdset/{added['fdset-id']}", block_device=block_device))
    return tuple(handed)


@contextlib.contextmanager
def handed_folder(guest: Guest, folder: Path) -> Iterator[str]:
    """Let QEMU write to a folder of ours for a moment; give its name to QEMU.

    :raise OSError: the folder cannot be made QEMU's.
    :raise MonitorError: QEMU does not take it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(descriptor, guest.user, guest.user)
        added = guest.qmp("add-fd", files=[descriptor])
        try:
            yield f"/proc/self/fd/{added['fd']}"
        finally:
            guest.qmp("remove-fd", {"fdset-id": added["fdset-id"]})
    finally:
        os.close(descriptor)
