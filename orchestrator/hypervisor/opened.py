"""What QEMU has opened for untrusted images, seen from outside while its guest cannot see it yet.

Images are checked by name (`orchestrator.images.policy`) and opened by name. In between, whoever may write to their
directory could put another file there, or change a header: then QEMU has a file open that was not checked, or lacks
one that was, and the launch ends before the guest reads a byte.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.model import Disk
from orchestrator.hypervisor.guest import Guest
from orchestrator.images.policy import Identity, ImagePolicyError

_ANONYMOUS = "/memfd:"
# null, zero, random, urandom, kvm (Linux's devices.txt): they reveal nothing.
_HARMLESS = frozenset({os.makedev(1, 3), os.makedev(1, 5), os.makedev(1, 8), os.makedev(1, 9), os.makedev(10, 232)})
_FLAGS = "flags:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Something with a name that a process has open."""

    name: str
    identity: Identity
    writable: bool


def opened_files(pid: int) -> Counter[Opened]:
    """Return the named files and devices that a process has open, and how often; not devices that hold nothing.

    :raise OSError: that cannot be seen.
    """
    found: Counter[Opened] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            status, name = entry.stat(), str(entry.readlink())
            information = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            continue  # closed meanwhile
        if not name.startswith("/") or name.startswith(_ANONYMOUS):
            continue  # a pipe, a socket, an eventfd
        if stat.S_ISCHR(status.st_mode) and status.st_rdev in _HARMLESS:
            continue
        (flags,) = (line.split()[1] for line in information.splitlines() if line.startswith(_FLAGS))
        writable = int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
        found[Opened(name=name, identity=(status.st_dev, status.st_ino), writable=writable)] += 1
    return found


def files_of(guest: Guest) -> Counter[Opened]:
    """Return what a guest's QEMU has open.

    :raise ImagePolicyError: that cannot be seen.
    """
    try:
        if guest.pid is None:
            raise ProcessLookupError(0, "libvirt does not say which process it is")
        return opened_files(guest.pid)
    except OSError as error:
        why = f"image policy untrusted: what it opens cannot be seen: {error.strerror}"
        raise ImagePolicyError("cannot use the disks", guest.name, why, "use a connection on this host") from error


def require_checked(files: Counter[Opened], disks: Sequence[Disk], known: Counter[Opened]) -> None:
    """Compare what QEMU has open with what was checked.

    :param disks: those that it has opened. What is `known` belongs to none; a file that it has open once more than
        that belongs to a disk.
    :raise ImagePolicyError: a file has taken the place of another since.
    """
    wanted = {identity for disk in disks for identity in disk.identities}
    more = files - known
    why = "image policy untrusted: "
    for file in more:
        if file.identity not in wanted:
            raise ImagePolicyError("cannot use the disks", file.name, f"{why}QEMU opened it, and it was not checked")
    seen = {file.identity for file in more}
    for disk in disks:
        if not seen >= set(disk.identities):
            path = getattr(disk.source, "path", "a disk")
            raise ImagePolicyError("cannot use the disk", path, f"{why}a file of it was exchanged after it was checked")


def checking(guest: Guest) -> Callable[[Sequence[Disk]], None]:
    """Return what compares the disks that QEMU has opened from now on with what was checked, as `require_checked` does.

    :raise ImagePolicyError: what it has open cannot be seen.
    """
    known = files_of(guest)
    return lambda disks: require_checked(files_of(guest), disks, known)


def own_files(files: Counter[Opened], launch_id: str, folder: Path, readable: Iterable[Path]) -> Counter[Opened]:
    """Return those that a QEMU has open for its own launch, and not for a disk.

    They are what lies in the launch's own folder, the log and the process id that libvirt names after the domain, and
    what all launches share; that is only read.
    """
    below, shared = f"{os.path.realpath(folder)}/", {os.path.realpath(path) for path in readable}
    return Counter(
        {
            file: times
            for file, times in files.items()
            if file.name.startswith(below)
            or Path(file.name).name in {f"{launch_id}.log", f"{launch_id}.pid"}
            or (file.name in shared and not file.writable)
        }
    )
