"""One NVRAM copy per launch where flash has files: the firmware's variable store, made cheaply and removed at the end.

An AAVMF template is 64 MiB and nearly all zeros, but the distribution ships it fully allocated. Copies are
therefore reflinks where the file system has them, or else sparse files. Finding the zeros takes about 15 ms; with
a cache directory a sparse twin of the template is kept, whose holes the file system knows, and a copy takes
well under one millisecond. A qcow2 overlay would be as cheap, but libvirt before 9.2 knows raw NVRAM only.
Which template to use is `descriptors`' business.

A template's variables are those of a machine that was never switched on. Its first boot writes some 6,000 words to
the flash (consoles, languages, keys, boot entries); each leaves a guest of KVM, as does each change of the flash
between reading and writing. A boot that finds them writes a tenth of that before the kernel is there, and nothing
after (QEMU 7.2, AAVMF 2022.11, counted on 2026-11-26). So the store of a boot that no stranger's byte had part in is
kept, as *settled* variables, and copied instead of the template.
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
def copy_nvram(
    template: str | Path,
    directory: str | Path,
    *,
    cache: str | Path | None = None,
    settled_by: str | Path | None = None,
) -> Iterator[Path]:
    """Yield the path of a writable copy of template in directory, and remove the copy afterwards.

    :param cache: directory in which sparse twins of templates are kept between launches.
    :param settled_by: the firmware's code: variables that it has settled are taken instead, where there are some in the
        cache; the copy's name begins with `nvram-settled-` then.
    :raise FirmwareError: the template cannot be read or the copy cannot be written.
    """
    source = Path(template)
    directory = Path(directory)
    try:
        origin, prefix = source, "nvram-"
        if cache is not None:
            origin, settled = _origin(source, Path(cache), settled_by)
            prefix = "nvram-settled-" if settled else prefix
        fd, name = tempfile.mkstemp(prefix=prefix, suffix=".fd", dir=directory)
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


def variables_of(template: str | Path, *, cache: Path, settled_by: str | Path | None = None) -> Path:
    """Return the file of which `copy_nvram` would make a copy.

    :raise FirmwareError: the template cannot be read.
    """
    try:
        return _origin(Path(template), cache, settled_by)[0]
    except OSError as e:
        raise FirmwareError("cannot read the variables", template, e.strerror or e) from e


def _origin(template: Path, cache: Path, settled_by: str | Path | None) -> tuple[Path, bool]:
    """Return which file in the cache has the variables, and whether a firmware has settled them."""
    settled = None if settled_by is None else _settled(settled_by, template, cache)
    if settled is not None and _has_size_of(settled, template):
        return settled, True
    return _sparse_twin(template, cache), False


def settle(nvram: str | Path, *, code: str | Path, template: str | Path, cache: Path) -> None:
    """Keep the variables that a firmware has left, for copies of the same template that the same code will use.

    Only of a guest that saw nothing but what is ours: no disk of a user's, no network. A template in a format with a
    header of its own (qcow2) grows as it is written to, and is left out.

    :param nvram: raw, and nobody writes to it any more.
    :raise OSError: it cannot be kept.
    """
    kept = _settled(code, Path(template), cache)
    if not _has_size_of(Path(nvram), Path(template)) or _has_size_of(kept, Path(template)):
        return
    _keep_copy(Path(nvram), kept)


def _settled(code: str | Path, template: Path, cache: Path) -> Path:
    """Return where the variables are kept that some code has made of a template."""
    return cache / f"nvram-settled-{_digest(_identity(Path(code)), _identity(template))}.fd"


def _sparse_twin(template: Path, cache: Path) -> Path:
    """Return the sparse twin of template in cache, making it when the template is new or has changed."""
    twin = cache / f"nvram-{_digest(_identity(template))}.fd"
    if not _has_size_of(twin, template):
        _keep_copy(template, twin)
    return twin


def _keep_copy(source: Path, kept: Path) -> None:
    kept.parent.mkdir(parents=True, exist_ok=True)
    with files.written_whole(kept) as file:
        _copy_into(source, file.fileno())
        os.fsync(file.fileno())  # the size alone is checked later: a crash must not leave a copy with lost content


def _has_size_of(copy: Path, template: Path) -> bool:
    size = template.stat().st_size
    with contextlib.suppress(OSError):
        return copy.stat().st_size == size
    return False


def _identity(path: Path) -> str:
    stat = path.stat()
    return f"{path.resolve()}\0{stat.st_ino}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"


def _digest(*identities: str) -> str:
    return hashlib.sha256(os.fsencode("\0".join(identities))).hexdigest()[:24]


def _copy_into(source: Path, target_fd: int) -> None:
    """Make the empty file target_fd equal to source, by reflink or else without its zeros."""
    source_fd = files.open_image(source)
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
