"""One NVRAM copy per launch: the firmware's variable store, made cheaply and removed with the launch.

An AAVMF template is 64 MiB and nearly all zeros, but the distribution ships it fully allocated. Copies are
therefore reflinks where the file system has them, or else sparse files. Finding the zeros takes about 15 ms; with
a cache directory a sparse twin of the template is kept, whose holes the file system knows, and a copy takes
well under one millisecond. A qcow2 overlay would be as cheap, but libvirt before 9.2 knows raw NVRAM only.
Which template to use is `descriptors`' business.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator import files
from orchestrator.errors import FirmwareError

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CHUNK = 256 * 1024  # fits the L2 cache; fastest of 4 KiB to 4 MiB when comparing with zeros
_MODE = 0o600


def keep_nvram(template: str | Path, target: Path, *, cache: str | Path | None = None) -> None:
    """Make a variable store that stays, under a name that nothing has yet.

    :raise FirmwareError: the template cannot be read, or the store not be written.
    """
    source = Path(template)
    try:
        origin = _sparse_twin(source, Path(cache)) if cache is not None else source
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
    except OSError as e:
        raise FirmwareError("cannot make the NVRAM", target, e.strerror or e) from e
    try:
        _copy_into(origin, descriptor)
    except OSError as e:
        target.unlink(missing_ok=True)
        raise FirmwareError("cannot make the NVRAM", target, e.strerror or e) from e
    finally:
        os.close(descriptor)


@contextmanager
def copy_nvram(template: str | Path, directory: str | Path, *, cache: str | Path | None = None) -> Iterator[Path]:
    """Yield the path of a writable copy of template in directory, and remove the copy afterwards.

    :param cache: directory in which sparse twins of templates are kept between launches.
    :raise FirmwareError: the template cannot be read or the copy cannot be written.
    """
    source = Path(template)
    directory = Path(directory)
    try:
        origin = _sparse_twin(source, Path(cache)) if cache is not None else source
        fd, name = tempfile.mkstemp(prefix="nvram-", suffix=".fd", dir=directory)
    except OSError as e:
        raise FirmwareError("cannot make the NVRAM copy", template, e.strerror or e) from e
    path = Path(name)
    try:
        try:
            _copy_into(origin, fd)
        except OSError as e:
            raise FirmwareError("cannot make the NVRAM copy", template, e.strerror or e) from e
        finally:
            os.close(fd)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _sparse_twin(template: Path, cache: Path) -> Path:
    """Return the sparse twin of template in cache, making it when the template is new or has changed."""
    stat = template.stat()
    identity = f"{template.resolve()}\0{stat.st_ino}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
    twin = cache / f"nvram-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:24]}.fd"
    with contextlib.suppress(OSError):
        if twin.stat().st_size == stat.st_size:
            return twin
    cache.mkdir(parents=True, exist_ok=True)
    with files.written_whole(twin) as file:
        _copy_into(template, file.fileno())
        os.fsync(file.fileno())  # the size alone is checked later: a crash must not leave a twin with lost content
    return twin


def _copy_into(source: Path, target_fd: int) -> None:
    """Make the empty file target_fd equal to source, by reflink or else without its zeros."""
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(target_fd, _MODE)
        try:
            fcntl.ioctl(target_fd, _FICLONE, source_fd)
        except OSError:  # another file system, or one that does not share blocks
            size = os.fstat(source_fd).st_size
            os.ftruncate(target_fd, size)
            for start, end in _data_ranges(source_fd, size):
                _copy_nonzero(source_fd, target_fd, start, end)
    finally:
        os.close(source_fd)


def _data_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) ranges of fd that are not holes."""
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:  # nothing but a hole to the end
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _copy_nonzero(source_fd: int, target_fd: int, start: int, end: int) -> None:
    """Copy [start, end) of source to target, leaving out chunks that hold only zeros."""
    zeros = bytes(_CHUNK)
    while start < end:
        data = os.pread(source_fd, min(_CHUNK, end - start), start)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        if data != (zeros if len(data) == _CHUNK else bytes(len(data))):
            written = 0
            while written < len(data):
                written += os.pwrite(target_fd, data[written:], start + written)
        start += len(data)
