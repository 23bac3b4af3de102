"""What QEMU has opened for untrusted images, seen from outside while its guest cannot see it yet.

Images are checked by name (`orchestrator.images.policy`) and opened by name. Whoever may write to their directory could
put another file there in between, or change a header: then QEMU holds a file that was not checked, or lacks
one that was, and the launch ends before the guest reads a byte.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.domain.model import Disk
from orchestrator.hypervisor.guest import Guest
from orchestrator.images.policy import Identity, ImagePolicyError

_ANONYMOUS = "/memfd:"


def opened_files(pid: int) -> Mapping[Identity, str]:
    """Return the files and block devices that a process has open, with their names.

    :raise OSError: they cannot be seen.
    """
    found: dict[Identity, str] = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            status, name = entry.stat(), str(entry.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
        if (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)) and not name.startswith(_ANONYMOUS):
            found[status.st_dev, status.st_ino] = name
    return found


def files_of(guest: Guest) -> Mapping[Identity, str]:
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


def require_checked(files: Mapping[Identity, str], disks: Sequence[Disk], known: Mapping[Identity, str]) -> None:
    """Compare what QEMU has open with what was checked.

    :param disks: those that it has opened, besides `known`, which are none of a disk's.
    :raise ImagePolicyError: a file was put in the place of another since.
    """
    wanted = {identity for disk in disks for identity in disk.identities}
    why = "image policy untrusted: "
    for identity, name in files.items():
        if identity not in wanted and identity not in known:
            raise ImagePolicyError("cannot use the disks", name, f"{why}QEMU opened it, and it was not checked")
    for disk in disks:
        if not files.keys() >= set(disk.identities):
            path = getattr(disk.source, "path", "a disk")
            raise ImagePolicyError("cannot use the disk", path, f"{why}a file of it was exchanged after it was checked")


def below(files: Mapping[Identity, str], folders: Sequence[str]) -> Mapping[Identity, str]:
    """Return those files that lie below one of some directories, or are one."""
    true = [os.path.realpath(folder) for folder in folders]
    return {
        identity: name
        for identity, name in files.items()
        if any(name == folder or name.startswith(folder.rstrip("/") + "/") for folder in true)
    }
