"""Images that are not trusted: what they may name, checked before anything is opened for a guest.

The answer is a block graph in which every driver and every file is said, so that QEMU follows nothing of what the
headers say; and which files these are (device and inode), so that a launch can see that QEMU opened just them. Files
are found by descriptor: the kernel says where a name led, and only what lies below the allowed roots is read at all.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import DiskError
from orchestrator.images.header import BadImageError, Header
from orchestrator.images.names import FORMATS, Name, backing_name, data_name
from orchestrator.images.reading import read_header
from orchestrator.settings import Settings

_MAX_DEPTH = 16
# QEMU follows no backing file where this is null; other formats have none.
_WITH_BACKING = frozenset({"qcow", "qcow2", "qed", "vmdk"})

Identity = tuple[int, int]


class ImagePolicyError(DiskError):
    """An image asks for what the policy does not allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What an untrusted image may do.

    :ivar roots: directories, absolute, below which it and all that it names must lie; none: the image's own directory.
    :ivar max_bytes: how large a disk it may claim to be.
    """

    roots: tuple[str, ...] = ()
    max_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Policy:
        """Return what settings ask for that do not trust images."""
        return cls(roots=tuple(map(os.fspath, settings.image_roots)), max_bytes=settings.image_max_gib << 30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confined:
    """An image that was checked.

    :ivar graph: QEMU's block graph for it, as JSON.
    :ivar format: of the image itself.
    :ivar files: all its files, by their names; `identities` are the same by device and inode.
    """

    graph: str
    format: str
    files: tuple[str, ...]
    identities: frozenset[Identity]


def confine_disk(path: str, image_format: str | None, cwd: str, settings: Settings, *, overlay: bool) -> Confined:
    """Check a disk as settings ask for it that do not trust images.

    :param overlay: what is named is libguestfs's own overlay over the user's image.
    :raise ImagePolicyError: it is not allowed; nothing outside the roots was read.
    """
    return (confine_overlay if overlay else confine)(path, image_format, cwd, Policy.of(settings))


def confine(path: str, image_format: str | None, cwd: str, policy: Policy) -> Confined:
    """Check an image, named by the user, and all that it names.

    :param path: absolute; `cwd` is the tool's working directory.
    :raise ImagePolicyError: it is not allowed; nothing outside the roots was read.
    """
    check = _Check(policy, path, cwd)
    node, found = check.image(path, image_format, 0)
    return _confined(check, node, found)


def confine_overlay(path: str, image_format: str | None, cwd: str, policy: Policy) -> Confined:
    """Check the image below a read-only drive's overlay, which libguestfs itself has made for this launch.

    :raise ImagePolicyError: as `confine`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status, header = os.fstat(descriptor), read_header(descriptor, image_format)
        finally:
            os.close(descriptor)
    except (OSError, BadImageError) as error:
        raise ImagePolicyError("cannot use the disk", path, error) from error
    below = None if header.backing is None else backing_name(header.backing, os.path.dirname(path), cwd)
    if below is None or below.path is None or below.options is not None or header.data is not None:
        hint = "give the file itself, or use image policy trusted"
        raise ImagePolicyError("cannot use the disk", path, "its overlay is over no local file", hint)
    check = _Check(policy, below.path, cwd, locking=False)
    node, _ = check.image(below.path, header.backing_format or below.format, 0)
    check.identities.add((status.st_dev, status.st_ino))
    check.files.insert(0, path)
    top = {"driver": "qcow2", "file": {"driver": "file", "filename": path}, "backing": node}
    return _confined(check, top, "qcow2")


def _confined(check: _Check, node: dict[str, Any], image_format: str) -> Confined:
    return Confined(
        graph=json.dumps(node),
        format=image_format,
        files=tuple(dict.fromkeys(check.files)),
        identities=frozenset(check.identities),
    )


@dataclass(slots=True)
class _Check:
    """One image's check, from its top down."""

    policy: Policy
    top: str
    cwd: str
    locking: bool = True  # of the topmost file
    files: list[str] = field(default_factory=list)
    identities: set[Identity] = field(default_factory=set)
    roots: tuple[str, ...] = ()

    def image(self, path: str, image_format: str | None, depth: int) -> tuple[dict[str, Any], str]:
        """Return the graph of an image and its format."""
        if depth >= _MAX_DEPTH:
            raise self._refused(f"its chain of backing files is longer than {_MAX_DEPTH}")
        what = "it" if depth == 0 else f"its backing file {path}"
        with self._opened(path, what) as (descriptor, real, driver):
            header = self._header(descriptor, image_format, what)
        if header.size > self.policy.max_bytes:
            most = self.policy.max_bytes >> 30
            raise self._refused(f"{what} claims {header.size} bytes", f"image_max_gib allows {most} GiB")
        if header.parent is not None:
            raise self._refused(f"{what} is the difference to another image ({header.parent})")
        file: dict[str, Any] = {"driver": driver, "filename": real}
        if depth == 0 and not self.locking:
            file["locking"] = "off"
        node: dict[str, Any] = {"driver": header.format, "file": file}
        if header.data is not None:
            node["data-file"] = self._data(data_name(header.data, self.cwd), header.data)
        self._extents(header, os.path.dirname(real))
        if header.format in _WITH_BACKING:
            node["backing"] = self._backing(header, os.path.dirname(path), depth)
        return node, header.format

    def _header(self, descriptor: int, image_format: str | None, what: str) -> Header:
        if image_format not in {None, *FORMATS}:
            raise self._refused(
                f"{what} is to be of format {image_format}", f"allowed are {', '.join(sorted(FORMATS))}"
            )
        try:
            header = read_header(descriptor, image_format)
        except BadImageError as error:
            raise self._refused(f"{what} is damaged: {error}") from error
        except OSError as error:
            raise self._refused(f"{what} cannot be read: {error.strerror}") from error
        if image_format is None and header.format != "raw":
            why = f"no format is given for {what}, and the header says {header.format}"
            raise self._refused(why, f"say format {header.format} if that is meant, else raw: it is never guessed")
        return header

    def _backing(self, header: Header, directory: str, depth: int) -> dict[str, Any] | None:
        if header.backing is None:
            return None
        below = backing_name(header.backing, directory, self.cwd)
        if below.path is None:
            raise self._refused(f"its backing file is no local file: {header.backing}")
        return self.image(below.path, header.backing_format or below.format, depth + 1)[0]

    def _data(self, name: Name, text: str) -> dict[str, Any]:
        if name.path is None:
            raise self._refused(f"its data file is no local file: {text}")
        with self._opened(name.path, f"its data file {name.path}") as (_, real, driver):
            return {"driver": driver, "filename": real}

    def _extents(self, header: Header, directory: str) -> None:
        """Check the files of a VMDK descriptor. QEMU takes no options for them: what it opens is looked at later."""
        for sparse, name in header.extents:
            path = os.path.join(directory, name)
            with self._opened(path, f"its extent {path}") as (descriptor, _, _):
                if not sparse:
                    continue
                try:
                    extent = read_header(descriptor, "vmdk")
                except (BadImageError, OSError) as error:
                    raise self._refused(f"its extent {path} is damaged: {error}") from error
                if extent.extents:
                    raise self._refused(f"its extent {path} names files in its turn")

    @contextmanager
    def _opened(self, path: str, what: str) -> Iterator[tuple[int, str, str]]:
        """Open a file that lies below the roots; yield its descriptor, its true name, and QEMU's driver for it."""
        handle, real = self._found(path, what)
        try:
            status = os.fstat(handle)
            drivers = {stat.S_IFREG: "file", stat.S_IFBLK: "host_device"}
            driver = drivers.get(stat.S_IFMT(status.st_mode))
            if driver is None:
                raise self._refused(f"{what} is neither a file nor a block device")
            try:
                descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise self._refused(f"{what} cannot be opened: {error.strerror}") from error
        finally:
            os.close(handle)
        self.files.append(path)
        self.identities.add((status.st_dev, status.st_ino))
        try:
            yield descriptor, real, driver
        finally:
            os.close(descriptor)

    def _found(self, path: str, what: str) -> tuple[int, str]:
        """Return a descriptor that opens nothing yet, and the true name of what it stands for."""
        if not self.roots:
            named = self.policy.roots or (os.path.dirname(self.top),)
            self.roots = tuple(real for root in named if (real := _where(root)) is not None)
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise self._refused(f"{what} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
        real = os.readlink(f"/proc/self/fd/{handle}")
        if any(real.startswith(root.rstrip("/") + "/") for root in self.roots) and os.path.exists(real):
            return handle, real
        os.close(handle)
        where = "" if real == path else f", which is {real},"
        allowed = ", ".join(self.policy.roots or (os.path.dirname(self.top),))
        raise self._refused(
            f"{what}{where} is not below {allowed}", "add its directory to image_roots if it may be used"
        )

    def _refused(self, why: str, hint: str = "") -> ImagePolicyError:
        policy = "image policy untrusted"
        return ImagePolicyError("cannot use the disk", self.top, f"{policy}: {why}", hint)


def _where(path: str) -> str | None:
    """Return the true name of a directory, None where there is none."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
