"""Files and folders where other users could interfere: opened step by step, removed beneath a descriptor.

A path is only as good as the folders on the way to it: whoever may write to one of them decides what the path means.
So each is opened by itself, and looked at by its descriptor. Standard library only, and light: the guardian and the
hv wrapper start with it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import select
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
WRITABLE = "others can write to it"
_LINKS_MAX = 40  # as the kernel
# XML 1.0 has no spelling for these, not even an escaped one. Said the other way round it takes 8 ms to compile.
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
SETTINGS_BYTES = 8 << 20  # the most that a file has which somebody writes by hand: answers, descriptions, keys
_PIPE_S = 60.0  # for whoever writes to a pipe to write more
_NULL = os.makedev(1, 3)  # /dev/null on any Linux
_IRREGULAR = "it is no regular file"
_OVERFLOW_UID = 65534  # who a user namespace shows as the owner of what belongs to nobody in it


def open_folder(path: str | os.PathLike[str], *, make: bool = False, of_root: bool = False) -> int:
    """Return a descriptor of a folder that only we can write to, and whose name nobody else can give to another.

    Each folder on the way belongs to us or to root and is writable by nobody else; in one that is sticky, as /tmp, the
    next one has to be so. A symbolic link on the way is followed where only we or root can have made it; at the end of
    the path none is.

    :param make: make what is missing, for us alone.
    :param of_root: root may be the one that it belongs to.
    :raise OSError: it is not there, or not safe: `strerror` says why, `filename` where.
    """
    left = _parts(os.path.abspath(path))
    links, walked = 0, [""]
    here = os.open("/", _STEP)
    try:
        _check_way(os.fstat(here), "/")
        while left:
            name = left.pop()
            there = _step(name, here, "/".join([*walked, name]), make=make)
            status = os.fstat(there)
            if stat.S_ISLNK(status.st_mode) and left and _is_trusted(status.st_uid) and links < _LINKS_MAX:
                links += 1
                target = os.readlink("", dir_fd=there)
                os.close(there)
                left += _parts(target)
                if target.startswith("/"):
                    os.close(here)
                    here, walked = os.open("/", _STEP), [""]
                continue
            os.close(here)
            here = there
            walked.append(name)
            _check_way(status, "/".join(walked))
        _check_own(os.fstat(here), os.path.abspath(path), of_root=of_root)
        return os.open(".", _FOLDER, dir_fd=here)
    finally:
        os.close(here)


def why_unsafe(path: str | os.PathLike[str]) -> str | None:
    """Return why a folder is not ours alone, or not to be had; None when it is there and `open_folder` opens it."""
    try:
        os.close(open_folder(path))
    except OSError as error:
        return error.strerror or str(error)
    return None


def has_plain_name(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is text that XML can hold: no control characters, and no bytes that are no UTF-8."""
    return NOT_IN_XML.search(os.fspath(path)) is None


def _parts(path: str) -> list[str]:
    """Return the steps of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _step(name: str, here: int, path: str, *, make: bool) -> int:
    try:
        return os.open(name, _STEP, dir_fd=here)
    except FileNotFoundError:
        if not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=here)
    return os.open(name, _STEP, dir_fd=here)


def _check_way(status: os.stat_result, path: str) -> None:
    """Look at a folder on the way.

    :raise OSError: it is none, or somebody else can change what its names mean.
    """
    if not stat.S_ISDIR(status.st_mode):
        why = "it is a symbolic link" if stat.S_ISLNK(status.st_mode) else "it is not a directory"
        raise NotADirectoryError(errno.ENOTDIR, why, path)
    if not _is_trusted(status.st_uid):
        raise PermissionError(errno.EPERM, f"it belongs to uid {status.st_uid}", path)
    if _others_may_write(status) and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, WRITABLE, path)


def _check_own(status: os.stat_result, path: str, *, of_root: bool) -> None:
    """Look at the folder that was asked for.

    :raise PermissionError: it is not ours, or others can write to it.
    """
    if status.st_uid != os.geteuid() and not (of_root and _is_trusted(status.st_uid)):
        raise PermissionError(errno.EPERM, f"it belongs to uid {status.st_uid}", path)
    if _others_may_write(status):
        raise PermissionError(errno.EPERM, WRITABLE, path)


def _others_may_write(status: os.stat_result) -> bool:
    """Tell whether anybody but a folder's owner may change what is in it.

    A user's own group has nobody else in it, by the custom that gives it the user's number; where it is so, logins may
    have the umask 0002 (pam_umask's `usergroups`, on in Debian 13), and all folders are the group's to write to.
    """
    own_group = 0 != os.geteuid() == status.st_uid == status.st_gid
    return bool(status.st_mode & (stat.S_IWOTH if own_group else stat.S_IWGRP | stat.S_IWOTH))


def _is_trusted(uid: int) -> bool:
    """Tell whether a folder's owner is us or root, who in a user namespace may be nobody's number."""
    return uid in {0, os.geteuid()} or (uid == _OVERFLOW_UID and _in_user_namespace())


@functools.cache
def _in_user_namespace() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:
            return file.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def open_image(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a file or block device that somebody names, which may be neither.

    Nothing is waited for: a pipe would be opened when somebody comes to its other end.

    :param flags: of open(2).
    :raise OSError: it cannot be opened, or is neither; `strerror` says so.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISBLK(kind):
        os.set_blocking(descriptor, True)
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is neither a file nor a block device", os.fspath(path))


def read_whole(path: str | os.PathLike[str], most: int = SETTINGS_BYTES, *, pipe: bool = False) -> bytes:
    """Return all of a file that somebody names, which may be none, or without end; /dev/null is one without content.

    :param most: how many bytes of it are taken.
    :param pipe: it is read once, so that it may be a pipe as well, as a shell makes one of `<(...)`.
    :raise OSError: it cannot be read, is something else, is a pipe to which nobody writes, or has more.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        kind = status.st_mode
        if stat.S_ISCHR(kind) and status.st_rdev == _NULL:
            return b""
        if not stat.S_ISREG(kind) and not (pipe and stat.S_ISFIFO(kind)):
            raise OSError(errno.EINVAL, _IRREGULAR, os.fspath(path))
        blocks: list[bytes] = []
        size = 0
        while block := _next_block(descriptor, begun=bool(blocks)):
            blocks.append(block)
            size += len(block)
            if size > most:
                raise OSError(errno.EFBIG, f"it has more than {most} bytes", os.fspath(path))
        return b"".join(blocks)
    finally:
        os.close(descriptor)


def _next_block(descriptor: int, *, begun: bool) -> bytes:
    """Return what comes next; nothing at the end.

    :param begun: something came before.
    """
    ready = select.poll()
    ready.register(descriptor, select.POLLIN)
    try:
        block = os.read(descriptor, 1 << 20)
    except BlockingIOError:
        if not ready.poll(_PIPE_S * 1000):
            raise OSError(errno.ETIMEDOUT, f"nobody wrote to the pipe for {_PIPE_S:g} s") from None
        return _next_block(descriptor, begun=begun)
    # The end of a pipe, and one that nobody has opened to write to, look the same but for this.
    if not block and not begun and stat.S_ISFIFO(os.fstat(descriptor).st_mode) and not ready.poll(0):
        raise OSError(errno.EPIPE, "it is a pipe, and nobody writes to it")
    return block


def check_regular(path: str | os.PathLike[str], *, folder: bool = False, pipe: bool = False) -> None:
    """Refuse what is no file that we can read, without a look into it.

    :param folder: a folder will do, too, and `pipe` a pipe.
    :raise OSError: it is none, and what it is.
    """
    kind = os.stat(path).st_mode
    if not stat.S_ISREG(kind) and not (folder and stat.S_ISDIR(kind)) and not (pipe and stat.S_ISFIFO(kind)):
        raise OSError(errno.EINVAL, _IRREGULAR, os.fspath(path))
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))


def entries(folder: int) -> list[str]:
    """Return the names in a folder, in order."""
    return sorted(os.listdir(folder))


def is_own(name: str, folder: int) -> bool:
    """Tell whether a name in a folder is ours, be it what it may."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid == os.geteuid()
    except OSError:
        return False


def remove_tree(name: str, folder: int) -> bool:
    """Remove what a name in a folder stands for, with all that is below it; tell whether anything was there.

    Never through a symbolic link. What cannot be removed stays.
    """
    try:
        os.unlink(name, dir_fd=folder)
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass  # a folder, most likely
    with contextlib.suppress(OSError):
        below = _enter(name, folder)
        try:
            for entry in entries(below):
                remove_tree(entry, below)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=folder)
    return True


def _enter(name: str, folder: int) -> int:
    """Open a folder to empty it: unpacked packages have some that their own owner may not enter."""
    with contextlib.suppress(OSError):
        there = os.open(name, _STEP | os.O_DIRECTORY, dir_fd=folder)
        try:
            status = os.fstat(there)
            if status.st_uid == os.geteuid() and status.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(f"/proc/self/fd/{there}", 0o700)
        finally:
            os.close(there)
    return os.open(name, _FOLDER, dir_fd=folder)


def make_empty(path: str | os.PathLike[str]) -> None:
    """Make a file for a program to fill, which nobody else can read then either.

    :raise OSError: it cannot be made, or is there.
    """
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str], *, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Yield a new file to write to, which takes its name when the context ends: others see it as a whole or not at all.

    The umask has no say in its mode.

    :raise OSError: it could not be written, and is as it was.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}-{os.urandom(6).hex()}")
    # A name that nobody can have put there, as a link to somewhere else.
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            yield file
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_whole(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o600) -> None:
    """Write a file that others see as a whole or not at all.

    :raise OSError: it could not be written, and is as it was.
    """
    with written_whole(path, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def written_output(path: str | os.PathLike[str], *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Yield what is written to where a user named it: a file as `written_whole` has it, wherever a link leads.

    A device, a pipe or what a process has open (/dev/null, /dev/stdout, `>(...)`) stays what it is, and is written to.

    :raise OSError: it could not be written, or is a pipe that nobody reads.
    """
    real = os.path.realpath(path)
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        regular = True
    if regular and not os.path.abspath(path).startswith(("/dev/", "/proc/")):
        with written_whole(real, mode=mode) as file:
            yield file
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "wb") as file:
        yield file


def write_output(path: str | os.PathLike[str], data: bytes, *, mode: int = 0o644) -> None:
    """Write all of what goes to where a user named it, see `written_output`.

    :raise OSError: it could not be written.
    """
    with written_output(path, mode=mode) as file:
        file.write(data)
