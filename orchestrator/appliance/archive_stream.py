"""The form of an appliance's archive: members of a tar archive packed by zstd, written and read one after the other.

Only what we write is read: plain files with the names that are asked for. What is in them is not known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from orchestrator.appliance.command import require

_BLOCK = 512
_CHUNK = 1 << 20
_END = bytes(2 * _BLOCK)
# tar fills its last record up; what is behind the end of the archive is that, or not ours.
_PADDING_MAX = 20 * _BLOCK
_TEXT_MAX = 1 << 20


class ArchiveError(ValueError):
    """The archive is not what it should be; says why."""


class _CutOffError(ArchiveError):
    """It ends too early."""


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member.tobuf(tarfile.USTAR_FORMAT)


def write_text(pipe: IO[bytes], name: str, data: bytes) -> None:
    """Write a small member."""
    pipe.write(_header(name, len(data)) + data + bytes(-len(data) % _BLOCK))


def write_file(pipe: IO[bytes], path: Path, size: int) -> None:
    """Write a file as the member of its name."""
    pipe.write(_header(path.name, size))
    with path.open("rb", buffering=0) as file:
        left = size
        while left:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise ArchiveError(f"{path.name} became shorter while it was read")
            pipe.write(chunk)
            left -= len(chunk)
    pipe.write(bytes(-size % _BLOCK))


def write_end(pipe: IO[bytes]) -> None:
    """Write what ends an archive, and close the pipe."""
    pipe.write(_END)
    pipe.close()


def _exactly(pipe: IO[bytes], size: int) -> bytes:
    data = pipe.read(size)
    if len(data) != size:
        raise _CutOffError("truncated, or not an archive of guestlaunch's")
    return data


def _member(pipe: IO[bytes], wanted: str) -> int:
    """Read a member's header and return its size.

    :raise ArchiveError: it is another member, or something else than a plain file.
    """
    header = _exactly(pipe, _BLOCK)
    if header == bytes(_BLOCK):
        raise ArchiveError(f"has no {wanted}")
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeError) as error:
        raise ArchiveError(f"not an archive of guestlaunch's: {error}") from error
    if member.name != wanted or member.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        kind = "the file" if member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} else "something that is no file,"
        raise ArchiveError(f"has {kind} {member.name} where {wanted} belongs")
    return member.size


def read_text(pipe: IO[bytes], name: str) -> bytes:
    """Return a small member.

    :raise ArchiveError: another one comes, or it is not small.
    """
    size = _member(pipe, name)
    if not 0 <= size <= _TEXT_MAX:
        raise ArchiveError(f"{name} would have {size} bytes, the most is {_TEXT_MAX}")
    data = _exactly(pipe, size)
    _exactly(pipe, -size % _BLOCK)
    return data


def read_file(pipe: IO[bytes], path: Path, size: int) -> os.stat_result:
    """Write the member of a path's name there, without what is all zero, and return what it is here."""
    if (found := _member(pipe, path.name)) != size:
        raise ArchiveError(f"{path.name} has {found} bytes, its manifest says {size}")
    nothing = bytes(_CHUNK)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o644), "wb", buffering=0) as file:
        for begin in range(0, size, _CHUNK):
            chunk = _exactly(pipe, min(_CHUNK, size - begin))
            if chunk != nothing[: len(chunk)]:
                _write_at(file.fileno(), chunk, begin)
        file.truncate(size)
        status = os.fstat(file.fileno())
    _exactly(pipe, -size % _BLOCK)
    return status


def _write_at(descriptor: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(descriptor, left, at)
        at, left = at + written, left[written:]


def check_end(pipe: IO[bytes]) -> None:
    """Read an archive to its end.

    :raise ArchiveError: there is none, or more behind it than padding.
    """
    end = pipe.read(_PADDING_MAX + 1)
    if len(end) < len(_END):
        raise _CutOffError("truncated: it has no end")
    if len(end) > _PADDING_MAX or end.strip(b"\0"):
        raise ArchiveError("has more in it than an appliance")


@contextlib.contextmanager
def zstd(*options: str, stdin: int, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run zstd, with a pipe at one of its ends; it is gone afterwards.

    :raise ArchiveError: it failed; says why it did, rather than what came of it.
    """
    command = [require("zstd", "zstd", what="cannot pack or unpack an appliance"), "-q", *options]
    # A session of its own: a terminal's interruption is ours to deal with.
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=errors, start_new_session=True) as process,
    ):
        failure: Exception | None = None
        try:
            try:
                yield process
            except (BrokenPipeError, _CutOffError) as error:
                failure = error
            if process.wait() != 0:
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip() or f"zstd ended with status {process.returncode}"
                raise ArchiveError(said.splitlines()[-1]) from failure
            if failure is not None:
                raise failure
        finally:
            process.kill()
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()


@contextlib.contextmanager
def new_file(target: Path | None) -> Iterator[int]:
    """Give a file to write to, which has its name only if all went well.

    :raise OSError: there is something of that name, or it cannot be written.
    """
    if target is None:
        yield 1
        return
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".{target.name}-{secrets.token_hex(6)}"
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, folder)
        if _is_there(target.name, folder):
            raise FileExistsError(errno.EEXIST, "there is a file of that name", os.fspath(target))
        try:
            # Without a name: not even a kill leaves anything.
            file = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644, dir_fd=folder)
            source = f"/proc/self/fd/{file}"
        except OSError:  # not all file systems have such files
            file = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=folder)
            stack.callback(_unlink, temporary, folder)
            source = f"/proc/self/fd/{folder}/{temporary}"
        stack.callback(os.close, file)
        yield file
        os.fsync(file)
        os.link(source, target.name, dst_dir_fd=folder, follow_symlinks=True)


def _is_there(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
