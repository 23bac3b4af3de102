"""What an installation makes is noted beside the NVRAM while it goes on: one that was killed is known by that.

Who carries it out holds the note's lock; the note is gone once that is over, however it ended. One that nobody holds
tells what a killed command has left, or a host that went down: the next installation there removes that, and no more.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.locks import take_file

_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What an installation makes.

    :ivar files: absolute paths.
    :ivar connection: of the domain that libvirt is given, with its `name`; empty if there is none.
    """

    files: tuple[str, ...] = ()
    connection: str = ""
    name: str = ""


def note_path(nvram: Path) -> Path:
    """Return where the note of an installation is."""
    return nvram.with_name(f"{nvram.name}.installing")


def noted(nvram: Path) -> Made | None:
    """Return what the note of an installation says, whether that still goes on or not; None if it says nothing."""
    try:
        return _read(note_path(nvram).read_bytes())
    except OSError:
        return None


class Note:
    """The note of an installation that is ours.

    :ivar left: what it said before, None if it said nothing.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor, self._path = descriptor, path
        self.left = _read(os.pread(descriptor, _MOST_BYTES, 0))

    def write(self, made: Made) -> None:
        """Have it say something else.

        :raise GuestlaunchError: it cannot be written.
        """
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(asdict(made)).encode(), 0)
            os.fsync(self._descriptor)
        except OSError as error:
            raise GuestlaunchError("cannot note the installation", self._path, error.strerror or error) from error


@contextlib.contextmanager
def held(nvram: Path) -> Iterator[Note]:
    """Hold the note of an installation, which is gone afterwards.

    :raise UsageError: another command holds it.
    :raise GuestlaunchError: there can be none.
    """
    path = note_path(nvram)
    try:
        descriptor = take_file(path)
    except BlockingIOError:
        raise UsageError("cannot install", nvram, "another command does", "wait until it is done") from None
    except OSError as error:
        raise GuestlaunchError("cannot note the installation", path, error.strerror or error) from error
    try:
        yield Note(descriptor, path)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _read(text: bytes) -> Made | None:
    """Return what a note says; one that was not written to its end says nothing, and nothing was made by then."""
    try:
        said = json.loads(text)
        return Made(files=tuple(map(str, said["files"])), connection=str(said["connection"]), name=str(said["name"]))
    except (ValueError, KeyError, TypeError):
        return None
