"""What an installation makes is noted beside the NVRAM while it goes on: one that was killed is known by that.

Who carries it out holds the note's lock; the note is gone once that is over, however it ended. One that nobody holds
tells what a killed command has left, or a host that went down: the next installation there removes that, and no more.
A file is what was made only as long as it is the same file; a note that is another user's is not believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.locks import take_file

_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What an installation makes.

    :ivar files: device and inode of each, by its absolute path.
    :ivar connection: of the domain that libvirt is given, with its `name`; empty if there is none.
    """

    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    connection: str = ""
    name: str = ""

    def includes(self, path: Path) -> bool:
        """Tell whether what is at a path is what was made there."""
        return os.fspath(path) in self.files and _identity(path) == self.files[os.fspath(path)]


def note_path(nvram: Path) -> Path:
    """Return where the note of an installation is."""
    return nvram.with_name(f"{nvram.name}.installing")


def noted(nvram: Path) -> Made | None:
    """Return what our note of an installation says, whether that still goes on or not; None if it says nothing."""
    try:
        descriptor = os.open(note_path(nvram), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _read(os.pread(descriptor, _MOST_BYTES, 0)) if _is_ours(descriptor) else None
    finally:
        os.close(descriptor)


class Note:
    """The note of an installation that is ours.

    :ivar left: what it said before, None if it said nothing.
    :ivar begun: it says what is made now, and no longer that.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path
        self._made = Made()
        self.begun = False
        self.left = _read(os.pread(descriptor, _MOST_BYTES, 0))

    def begin(self, connection: str, name: str) -> None:
        """Have it say that no file is made yet, and which domain may be.

        :raise GuestlaunchError: it cannot be written.
        """
        self._write(Made(connection=connection, name=name))

    def add(self, path: Path) -> None:
        """Have it say that a file was made, too.

        :raise GuestlaunchError: it cannot be written.
        """
        identity = _identity(path)
        if identity is not None:
            self._write(replace(self._made, files={**self._made.files, os.fspath(path): identity}))

    def _write(self, made: Made) -> None:
        self._made, self.begun = made, True
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(made)).encode(), 0)
            os.fsync(self._descriptor)
        except OSError as error:
            raise GuestlaunchError("cannot note the installation", self._path, error.strerror or error) from error


@contextlib.contextmanager
def held(nvram: Path) -> Iterator[Note]:
    """Hold the note of an installation, which is gone afterwards; but one that tells what is left stays until `begin`.

    :raise UsageError: another command holds it, or it is another user's.
    :raise GuestlaunchError: there can be none.
    """
    path = note_path(nvram)
    try:
        descriptor = take_file(path)
    except BlockingIOError:
        raise UsageError("cannot install", nvram, "another command does", "wait until it is done") from None
    except OSError as error:
        raise GuestlaunchError("cannot note the installation", path, error.strerror or error) from error
    with contextlib.closing(os.fdopen(descriptor, "rb", buffering=0)) as file:
        if not _is_ours(file.fileno()):
            raise UsageError("cannot install", path, "it is in the way, and not ours", "have it removed")
        note = Note(file.fileno(), path)
        try:
            yield note
        finally:
            if note.begun or note.left is None:
                path.unlink(missing_ok=True)


def _is_ours(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _read(text: bytes) -> Made | None:
    """Return what a note says; one that was not written to its end says nothing, and nothing was made by then."""
    try:
        said = json.loads(text)
        files = {str(path): (int(device), int(inode)) for path, (device, inode) in said["files"].items()}
        return Made(files=files, connection=str(said["connection"]), name=str(said["name"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
