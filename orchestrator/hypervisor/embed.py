"""The private root directory that libvirt's embedded QEMU driver (`qemu:///embed?root=DIR`) runs from.

libvirt allows one process a root and one root a process, for as long as the process lives; so each process gets a root
of its own, made at first use and removed when it ends. The QEMU capabilities cache, which takes seconds to fill, is
shared by all of them. It is the default (2026-11-22) because nothing has to be installed or started for it. Opening the
connection is `connection`'s part; nothing here imports libvirt.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from orchestrator import files, sockets
from orchestrator.errors import HypervisorError, is_full
from orchestrator.hypervisor import confinement, leftovers
from orchestrator.hypervisor.guardian import Guardian
from orchestrator.settings import default_runtime_dir
from orchestrator.values import dataclass

OWNER = "owner.lock"  # POSIX record lock, held while the owner lives; not inherited by children
# Below the root comes lib/qemu/domain-ID-NAME/monitor.sock, where libvirt cuts
# NAME to 20 characters and ID may grow to six digits.
_LONGEST_ROOT = sockets.PATH_MAX_BYTES - len("/lib/qemu/domain-123456-") - 20 - len("/monitor.sock")

# libvirt hands the root's path to QEMU as it is, where a comma ends an argument; where it is written otherwise, as JSON
# does, the guardian would not find it again.
_NOT_FOR_LIBVIRT = re.compile(r"""[,"\\\x00-\x1f\x7f\ud800-\udfff]""")

_ROOT_NAME = re.compile(r"[0-9]+-[0-9a-f]{4}")  # as `_root_name` makes them

_CONF_ANY_USER = {
    "stdio_handler": '"file"',  # there is no virtlogd to hand the guest's output to
}
_CONF_ROOT = _CONF_ANY_USER | {
    "user": '"root"',
    "group": '"root"',
    "security_driver": '"none"',
    "security_default_confined": "0",
    # Disks belong to the user: libvirt must neither change their owner nor remember one in an extended attribute, and
    # QEMU must be able to open them as any program of root's can.
    "dynamic_ownership": "0",
    "remember_owner": "0",
    "clear_emulator_capabilities": "0",
    # libvirt's filters would keep QEMU from giving up root (see `confinement`); a domain of ours brings its own.
    "seccomp_sandbox": "0",
    # Neither may be there in a container, and a guest of ours needs none.
    "namespaces": "[]",
    "cgroup_controllers": "[]",
}
# To libvirt, as to setreuid(2), the number that is nobody's means: whoever it is already. For any other, root's too, it
# calls setgroups(2), which a user namespace may forbid, and which takes a right that root may lack in a container.
_NO_CHANGE = '"+4294967295"'

_lock = threading.Lock()
_own: dict[int, Root] = {}  # by process id: a forked child has no claim on its parent's


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """This process's private root: `path`; `owner_fd` holds the lock that shows it is alive."""

    path: Path
    owner_fd: int
    guardian: Guardian

    @property
    def uri(self) -> str:
        """The connection's name to libvirt."""
        return f"qemu:///embed?root={quote(os.fspath(self.path), safe='/')}"

    def pid_file(self, domain: str) -> Path:
        """Return where libvirt writes the process id of a domain's QEMU."""
        return self.path / "run" / "qemu" / f"{domain}.pid"

    @property
    def probes(self) -> Path:
        """Where libvirt makes a folder for each QEMU that it asks what it can do."""
        return self.path / "lib" / "qemu"

    def domain_log(self, domain: str) -> Path:
        """Return the file that takes QEMU's stderr and trace output."""
        return self.path / "log" / "qemu" / f"{domain}.log"

    def claim(self, path: Path) -> Path:
        """Have a socket or a folder of a launch removed with the root, should this process die; return the claim.

        Whoever removes it in the normal course unlinks the claim after it. What may be claimed: `leftovers.FOLDER`.
        """
        claims = self.path / leftovers.CLAIMS
        claims.mkdir(mode=0o700, exist_ok=True)
        claim = claims / os.urandom(8).hex()
        claim.write_bytes(os.fsencode(path.parent.resolve() / path.name))
        return claim


def qemu_conf(*, privileged: bool, changes_user: bool = True) -> str:
    """Return the text of etc/qemu.conf for a root that is run as the superuser or not.

    :param changes_user: the superuser may set users and groups of its processes.
    """
    values = _CONF_ROOT if privileged else _CONF_ANY_USER
    if privileged and not changes_user:
        values = values | {"user": _NO_CHANGE, "group": _NO_CHANGE}
    return "".join(f"{key} = {value}\n" for key, value in values.items())


def bases(state_dir: Path, runtime_dir: Path | None = None) -> tuple[Path, ...]:
    """Return the folders that may hold roots, the preferred one first: below the state directory, then short ones.

    Each is used only where `files.open_folder` finds it safe. Root has none below /tmp, where others make names.

    :param runtime_dir: where sockets are to lie; None for the usual place.
    """
    last = sockets.SYSTEM_FOLDER if sockets.is_systems_root() else f"/tmp/guestlaunch-{os.geteuid()}"  # noqa: S108 - see above
    folders = (state_dir.absolute() / "libvirt" / "roots", runtime_dir or default_runtime_dir(os.environ), Path(last))
    return tuple(dict.fromkeys(folders))


def fits(base: Path) -> bool:
    """Tell whether the sockets of a root in this folder keep within a unix socket's path."""
    return len(os.fsencode(base / _root_name())) <= _LONGEST_ROOT


def _root_name() -> str:
    return f"{os.getpid()}-{os.urandom(2).hex()}"


def _choose_base(state_dir: Path, runtime_dir: Path | None) -> tuple[Path, int]:
    """Return the first folder for roots that will do, made if need be, and a descriptor of it."""
    tried = []
    for base in bases(state_dir, runtime_dir):
        if not fits(base):
            tried.append(f"{base} makes socket paths too long")
            continue
        if found := _NOT_FOR_LIBVIRT.search(os.fspath(base)):
            tried.append(f"{base} has a character that libvirt does not take there, {found.group()!r}")
            continue
        try:
            return base, files.open_folder(base, make=True)
        except OSError as error:
            at = f" ({error.filename})" if error.filename not in {None, str(base)} else ""
            tried.append(f"{base} is not ours alone or cannot be made: {error.strerror}{at}")
    hint = "choose a shorter state directory, or set GUESTLAUNCH_RUNTIME_DIR"
    raise HypervisorError("no place for libvirt's sockets", state_dir, "; ".join(tried), hint)


@contextmanager
def _base_locked(base: int, *, make: bool) -> Iterator[None]:
    """Keep sweepers out while a root is being made: one without a locked owner file would look abandoned.

    :raise FileNotFoundError: nobody has made a root there yet, and the lock file is not to be made.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if make else 0)
    descriptor = os.open(".lock", flags, 0o600, dir_fd=base)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _own_lock(root: str, base: int, *, make: bool) -> int:
    """Lock the owner file of a root.

    :raise OSError: somebody holds the lock, or the file is not there and not to be made.
    """
    folder = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=base)
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if make else 0)
        descriptor = os.open(OWNER, flags, 0o600, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _furnish(root: Path, cache: Path) -> None:
    """Write what libvirt reads at its start. The cache folder stands outside, shared through a symbolic link."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    (root / "cache").symlink_to(cache)
    (root / "etc").mkdir()
    (root / "etc" / "qemu.conf").write_text(
        qemu_conf(privileged=os.geteuid() == 0, changes_user=confinement.lacking() is None)
    )


def private_root(state_dir: Path, runtime_dir: Path | None = None) -> Root:
    """Return this process's root, made at the first call; libvirt allows a process no second one.

    :param runtime_dir: where sockets are to lie; None for the usual place.
    :raise HypervisorError: no folder for it that is private and has a short enough path.
    """
    with _lock:
        if os.getpid() not in _own:
            try:
                _own[os.getpid()] = _make_root(state_dir, runtime_dir)
            except OSError as error:
                hint = "set GUESTLAUNCH_STATE_DIR to a directory that you can write to"
                if is_full(error):
                    hint = "free some space there"
                why = f"{error.strerror}: {error.filename}" if error.filename else error
                raise HypervisorError("cannot prepare libvirt's folder in", state_dir, why, hint) from error
        return _own[os.getpid()]


def _make_root(state_dir: Path, runtime_dir: Path | None) -> Root:
    base, folder = _choose_base(state_dir, runtime_dir)
    try:
        with _base_locked(folder, make=True):
            path = base / _root_name()
            os.mkdir(path.name, 0o700, dir_fd=folder)
            owner_fd = _own_lock(path.name, folder, make=True)
    finally:
        os.close(folder)
    try:
        _furnish(path, state_dir.absolute() / "libvirt" / "cache")
        root = Root(path=path, owner_fd=owner_fd, guardian=Guardian(path))
    except BaseException:
        leftovers.remove(path)
        os.close(owner_fd)
        raise
    atexit.register(leave)
    return root


def leave() -> None:
    """Remove this process's root at its end, and wait for the guardian. Guests that still run then end with it.

    After it, this process starts no guest any more. The guardian removes what libvirt makes again meanwhile.
    """
    with _lock:
        root = _own.get(os.getpid())
        if root is None:
            return
        running = any(leftovers.guests_of(root.path))
        leftovers.remove(root.path)
        if not running:  # else libvirt is yet to take note of a guest's end, and makes folders anew: the guardian waits
            root.guardian.dismiss()


def sweep(state_dir: Path, runtime_dir: Path | None = None) -> list[str]:
    """Clean up after processes that died together with their guardian; return one line for each thing done.

    Nothing is made here, not even a lock file, and no folder is looked at that is not ours alone.

    :param runtime_dir: where sockets lie; None for the usual place.
    """
    done: list[str] = []
    for base in bases(state_dir, runtime_dir):
        try:
            folder = files.open_folder(base)
        except OSError:
            continue
        try:
            with _base_locked(folder, make=False):
                for name in files.entries(folder):
                    if _is_abandoned(name, folder):
                        done += leftovers.remove(base / name)
        except FileNotFoundError:
            continue
        finally:
            os.close(folder)
    return done


def _is_abandoned(name: str, base: int) -> bool:
    """Tell whether an entry of a folder is a root of ours whose owner is dead.

    The folder may be the runtime directory, where sockets and files of running launches stand beside.
    """
    own = _own.get(os.getpid())
    # Closing our own owner file once would release the lock on it: that is how record locks are.
    if not _ROOT_NAME.fullmatch(name) or (own is not None and own.path.name == name) or not files.is_own(name, base):
        return False
    try:
        os.close(_own_lock(name, base, make=False))
    except FileNotFoundError:
        return True  # its owner was killed before it had locked it, else we had not got the folder's lock
    except OSError:
        return False
    return True
