"""Where a tree is: a folder, an ISO image, a web server, a package. What is fetched of it is kept in a cache."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlsplit

from orchestrator import files
from orchestrator.errors import LocationError
from orchestrator.install import download
from orchestrator.install.digest import Digest
from orchestrator.install.iso import Iso
from orchestrator.launch.stop import Stop

_SMALL_BYTES = 8 << 20
_SCHEMES = {"http", "https"}
# A suite of Debian's archive, or what is below it: the installer's images of one architecture and version.
_SUITE = re.compile(
    r"(?P<top>.*/dists/[^/]+)(?:/main/installer-(?P<arch>[a-z0-9-]+)(?:/(?P<version>[^/]+))?(?:/.*)?)?/?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file of a tree, on this host.

    :ivar bytes: how many of it came over the network; 0 for one that was here.
    """

    path: Path
    bytes: int = 0
    duration_ns: int = 0


class TreeSource(Protocol):
    """Something that a tree's files can be read from. Paths are relative to its top.

    :ivar where: as the user is told.
    :ivar vouched: the package that all of it is from, which the package manager has checked; None for no package.
    :ivar direct: nobody on the way can change what is read: it is here, or comes by https.
    :ivar is_image: it is an ISO image.
    """

    where: str
    vouched: str | None
    direct: bool
    is_image: bool

    def text(self, path: str) -> str | None:
        """Return a small file; None if there is none of that name."""

    def has(self, path: str) -> bool:
        """Tell whether there is a file of that name."""

    def fetch(self, path: str, digest: Digest | None) -> Fetched:
        """Return a file.

        :raise LocationError: it cannot be had, or its checksum is another.
        """


def checked(path: str) -> str:
    """Return a path that a tree gives, if it lies within the tree.

    :raise LocationError: it does not.
    """
    parts = path.split("/")
    if path.startswith("/") or ".." in parts or not path.isprintable():
        raise LocationError("cannot use the tree", path, "the path leads out of it")
    return "/".join(part for part in parts if part not in {"", "."})


class TreeFolder:
    """A tree in a folder of this host."""

    direct = True
    is_image = False

    def __init__(self, top: Path, where: str, vouched: str | None = None) -> None:
        self._top, self.where, self.vouched = top, where, vouched

    def text(self, path: str) -> str | None:
        """See `TreeSource`."""
        if not self.has(path):
            return None
        try:
            with (self._top / checked(path)).open("rb") as file:
                return file.read(_SMALL_BYTES).decode("utf-8", "replace")
        except OSError as error:
            raise LocationError("cannot read", self._top / path, error.strerror or error) from error

    def has(self, path: str) -> bool:
        """See `TreeSource`."""
        return (self._top / checked(path)).is_file()

    def fetch(self, path: str, digest: Digest | None) -> Fetched:
        """See `TreeSource`."""
        found = self._top / checked(path)
        if not found.is_file():
            raise LocationError("the tree lacks a file", found, "it is not there")
        if digest is not None:
            digest.check(found, path)
        return Fetched(path=found)


class TreeImage:
    """A tree in an ISO image."""

    vouched: str | None = None
    direct = True
    is_image = True

    def __init__(self, path: Path, cache: Path) -> None:
        self._path, self.where, self._cache = path, os.fspath(path), cache

    def text(self, path: str) -> str | None:
        """See `TreeSource`."""
        with Iso(self._path) as iso:
            entry = iso.find(checked(path))
            if entry is None or entry.is_folder or entry.size > _SMALL_BYTES:
                return None
            return b"".join(iso.read(entry)).decode("utf-8", "replace")

    def has(self, path: str) -> bool:
        """See `TreeSource`."""
        with Iso(self._path) as iso:
            entry = iso.find(checked(path))
            return entry is not None and not entry.is_folder

    def fetch(self, path: str, digest: Digest | None) -> Fetched:
        """See `TreeSource`."""
        status = self._path.stat()
        key = f"iso\0{status.st_dev}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}\0{path}"
        target = _kept(self._cache, key, path)
        with Iso(self._path) as iso:
            entry = iso.find(checked(path))
            if entry is None or entry.is_folder:
                raise LocationError("the image lacks a file", self._path, f"no {path}")
            if not target.exists():
                with files.written_whole(target) as out:
                    out.writelines(iso.read(entry))
        _require(target, path, digest)
        return Fetched(path=target)


class TreeServer:
    """A tree on a web server.

    :param where: its address, as the user has given it; `top` that from which paths count.
    :param tell: takes the progress of downloads.
    """

    vouched: str | None = None
    is_image = False

    def __init__(self, where: str, top: str, cache: Path, tell: download.Tell, stop: Stop) -> None:
        self._url, self.where, self._cache = top.rstrip("/"), where, cache
        self._tell, self._stop = tell, stop
        self._texts: dict[str, str | None] = {}
        self.direct = urlsplit(top).scheme == "https"

    def text(self, path: str) -> str | None:
        """See `TreeSource`."""
        if path not in self._texts:
            content = download.read_small(self._at(path), self._stop)
            self._texts[path] = None if content is None else content.decode("utf-8", "replace")
        return self._texts[path]

    def has(self, path: str) -> bool:
        """See `TreeSource`."""
        return download.exists(self._at(path), self._stop)

    def fetch(self, path: str, digest: Digest | None) -> Fetched:
        """See `TreeSource`. What was kept is only taken again if a checksum says that it is the same."""
        target = _kept(self._cache, f"{self._url}\0{path}\0{digest.value if digest else ''}", path)
        if digest is not None and target.exists():
            _require(target, path, digest)
            return Fetched(path=target)
        began_ns = time.monotonic_ns()
        download.download(self._at(path), target, self._tell, self._stop)
        _require(target, path, digest)
        return Fetched(path=target, bytes=target.stat().st_size, duration_ns=time.monotonic_ns() - began_ns)

    def _at(self, path: str) -> str:
        return f"{self._url}/{quote(checked(path))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A suite of Debian's archive that a location is in, as all of its files are signed for there.

    :ivar top: the suite's own location; paths of a source are from there on.
    :ivar arch: Debian's name of the architecture whose images the location is among; None for no single one.
    """

    top: str
    arch: str | None
    version: str


def suite_of(location: str) -> Suite | None:
    """Return the suite that a location is in, by its path; None if it is in none."""
    found = _SUITE.fullmatch(location)
    if found is None:
        return None
    return Suite(top=found["top"], arch=found["arch"], version=found["version"] or "current")


def _kept(cache: Path, key: str, path: str) -> Path:
    """Return where a file is kept, whose folder is there."""
    folder = cache / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    os.close(files.open_folder(folder, make=True))
    return folder / path.rpartition("/")[2]


def _require(path: Path, name: str, digest: Digest | None) -> None:
    """Compare what is kept with its checksum, and keep nothing else."""
    if digest is None:
        return
    try:
        digest.check(path, name)
    except LocationError:
        path.unlink()
        raise


def _check_address(location: str) -> None:
    """Refuse what is no address of a server.

    :raise LocationError: it is none.
    """
    why = "it names no host"
    try:
        parts = urlsplit(location)
        if parts.hostname and parts.port != 0:
            return
    except ValueError as error:
        why = str(error)
    raise LocationError("cannot use the location", location, why)


def open_source(
    location: str, cache: Path, tell: download.Tell, stop: Stop, unpack: Callable[[str], TreeFolder]
) -> TreeSource:
    """Return the source that a location names.

    :param location: a folder, an ISO image, an http or https address, or deb:PACKAGE.
    :param unpack: fetches a package and returns what is in it.
    :raise LocationError: it is none of these, or not there.
    """
    scheme, colon, rest = location.partition(":")
    if colon and scheme == "deb":
        return unpack(rest)
    suite = suite_of(location)
    if colon and scheme in _SCHEMES:
        _check_address(location)
        return TreeServer(location, suite.top if suite else location, cache, tell, stop)
    if colon and rest.startswith("//"):
        why = f"guestlaunch fetches by http and https, and not by {scheme}"
        raise LocationError("cannot use the location", location, why)
    path = Path(location).absolute()
    if path.is_dir():
        return TreeFolder(Path(suite.top).absolute() if suite else path, os.fspath(path))
    if path.exists():
        return TreeImage(path, cache)
    raise LocationError("cannot use the location", location, "no such folder or image")
