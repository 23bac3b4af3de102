"""Makes the appliance's root directory from package files: unpacks, and does what maintainer scripts would.

No program from the packages is run: what their scripts create is created here, from the same data.
What goes into it is decided elsewhere; the image is made of it elsewhere.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from orchestrator.appliance.command import Deadline, require, run
from orchestrator.domain.model import Arch
from orchestrator.errors import ApplianceError

_MERGED = {Arch.AARCH64: ("bin", "lib", "sbin"), Arch.X86_64: ("bin", "lib", "lib64", "sbin")}
DIRECTORIES = ("dev", "proc", "run", "sys", "sysroot", "root", "var/tmp", "var/lib/dbus", "etc/ssl/certs")
# Links that update-alternatives makes when packages are configured.
ALTERNATIVES = {
    "usr/bin/awk": "gawk",
    "usr/bin/nawk": "gawk",
    "usr/bin/pager": "less",
    "usr/bin/which": "which.debianutils",
}
# Links that base-files makes when it is configured; its package has directories of these names.
RUNTIME_LINKS = {"var/lock": "../run/lock", "var/run": "../run"}
# udev's rules for devices that no appliance has, for what none runs, and one that ours
# replace (guest/59-guestlaunch.rules). Each event is matched with every rule, which an emulated guest feels; 90-iocost
# looks each disk up in the hardware database.
IDLE_RULES = (
    "50-firmware", "60-autosuspend", "60-block", "60-cdrom_id", "60-dmi-id", "60-drm", "60-evdev", "60-fido-id",
    "60-infiniband", "60-input-id", "60-persistent-alsa", "60-persistent-input", "60-persistent-storage-mtd",
    "60-persistent-storage-tape", "60-persistent-v4l", "60-sensor", "60-serial", "64-ext4", "64-xfs", "70-camera",
    "70-joystick", "70-memory", "70-mouse", "70-power-switch", "70-touchpad", "70-uaccess", "71-seat", "73-seat-late",
    "75-probe_mtd", "78-sound-card", "82-gfs2-withdraw", "85-hwclock", "90-iocost", "96-e2scrub", "99-systemd",
)  # fmt: skip
_IDLE_ATTRIBUTE = "ATTRS{ieee1394_id}"
_UDEV_GROUPS = ("input", "sgx", "kvm", "render")  # udev's own script adds them
_FIRST_DYNAMIC_ID = 999  # counts downwards, as adduser --system does


def merge_usr(root: Path, arch: Arch) -> None:
    """Lay out an empty root directory: `/bin` and the like are links into `/usr`."""
    for name in _MERGED[arch]:
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "tmp").mkdir()
    for name in ("tmp", "var/tmp"):
        (root / name).chmod(0o1777)


def _unpack_one(package: Path, root: Path, excludes: Path, deadline: Deadline) -> None:
    owner = "--same-owner" if os.geteuid() == 0 else "--no-same-owner"
    opening = [require("dpkg-deb", "dpkg"), "--fsys-tarfile", str(package)]
    writing = [require("tar", "tar"), "-x", "-p", owner, "--numeric-owner", "--keep-directory-symlink"]
    with subprocess.Popen(opening, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
        try:
            done = subprocess.run(
                [*writing, "-C", str(root), "--wildcards", "--anchored", "-X", str(excludes)],
                stdin=reader.stdout,
                capture_output=True,
                env={**os.environ, "LC_ALL": "C"},
                timeout=deadline.left(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ApplianceError("cannot unpack", package.name, "not done by the deadline") from error
        finally:
            if reader.stdout is not None:
                reader.stdout.close()  # who still writes to it ends
    if reader.returncode or done.returncode:
        # tar's first line is the reason; its last only says that there was one.
        why = next(iter(done.stderr.decode(errors="replace").strip().splitlines()), "damaged")
        full = os.strerror(errno.ENOSPC) in why or os.strerror(errno.EDQUOT) in why
        raise ApplianceError("cannot unpack", package, why, "free some space" if full else "remove it and build again")


def unpack(
    packages: Iterable[Path], root: Path, excludes: Iterable[str], deadline: Deadline, progress: Callable[[float], None]
) -> None:
    """Unpack package files over `root`.

    :param excludes: patterns of absolute paths that stay out, as in supermin's `excludefiles`.
    :raise ApplianceError: a package is damaged, there is no space, the deadline passed.
    """
    patterns = root.parent / "excludes"
    patterns.write_text("".join(f".{pattern}\n" for pattern in excludes))
    files = list(packages)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        work = [pool.submit(_unpack_one, file, root, patterns, deadline) for file in files]
        try:
            for number, future in enumerate(work, 1):
                future.result()
                progress(number / len(files))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def unpack_tarball(tarball: Path, root: Path) -> None:
    """Unpack one of supermin's tarballs over `root`, all of it owned by root.

    Members go where the links of a merged /usr lead; none may leave `root`.
    """
    with tarfile.open(tarball) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            target = (root / name).parent.resolve() / Path(name).name
            if not target.is_relative_to(root.resolve()):
                raise ApplianceError("cannot unpack", tarball, f"member {name} leads out of the appliance")
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if member.issym():
                target.symlink_to(member.linkname)
                continue
            source = archive.extractfile(member)
            if source is None:
                raise ApplianceError("cannot unpack", tarball, f"member {name} is not a file")
            with target.open("wb") as out:
                shutil.copyfileobj(source, out)
            target.chmod(member.mode & 0o7777)


def _system_users(root: Path) -> None:
    """Write passwd, group and shadow: base-passwd's master files, sysusers.d and udev's groups."""
    masters = root / "usr/share/base-passwd"
    passwd = (masters / "passwd.master").read_text().splitlines()
    groups = (masters / "group.master").read_text().splitlines()
    known = {line.split(":")[0] for line in groups}
    used = {line.split(":")[2] for line in groups}
    wanted: list[tuple[str, str]] = []
    for file in sorted((root / "usr/lib/sysusers.d").glob("*.conf")):
        wanted += re.findall(r"^g\s+(\S+)\s+(\S+)", file.read_text(), re.MULTILINE)
    number = _FIRST_DYNAMIC_ID
    for name, asked in [*wanted, *((name, "-") for name in _UDEV_GROUPS)]:
        if name in known:
            continue
        while str(number) in used:
            number -= 1
        gid = asked if asked.isdigit() and asked not in used else str(number)
        known.add(name)
        used.add(gid)
        groups.append(f"{name}:x:{gid}:")
    etc = root / "etc"
    (etc / "passwd").write_text("".join(f"{line}\n" for line in passwd))
    (etc / "group").write_text("".join(f"{line}\n" for line in groups))
    (etc / "shadow").write_text("".join(f"{line.split(':')[0]}:*:::::::\n" for line in passwd))
    (etc / "shadow").chmod(0o600)


def configure(root: Path, kernel_version: str, deadline: Deadline) -> None:
    """Create what the packages' scripts would: users, links, the module index.

    :raise ApplianceError: the module index could not be made.
    """
    _system_users(root)
    for name, target in ALTERNATIVES.items():
        if (root / "usr/bin" / target).exists() and not (root / name).exists():
            (root / name).symlink_to(target)
    for name, target in RUNTIME_LINKS.items():
        if not (root / name).is_symlink():
            shutil.rmtree(root / name, ignore_errors=True)
            (root / name).symlink_to(target)
    libc = root / "usr/share/libc-bin/nsswitch.conf"
    if libc.exists() and not (root / "etc/nsswitch.conf").exists():
        shutil.copyfile(libc, root / "etc/nsswitch.conf")
    (root / "etc/mtab").unlink(missing_ok=True)
    (root / "etc/mtab").symlink_to("../proc/self/mounts")
    (root / "etc/fstab").touch()
    (root / "etc/hostname").write_text("guestlaunch\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost guestlaunch\n::1 localhost\n")
    run([require("depmod", "kmod"), "-a", "-b", str(root), kernel_version], deadline)
    modules = root / "usr/lib/modules" / kernel_version
    write_static_nodes(modules / "modules.devname", root / "usr/lib/guestlaunch/static-nodes.tar")


def drop_idle_rules(root: Path) -> None:
    """Remove udev's rules for devices that no appliance has (input, sound, seats, ...), or that ours replace.

    Those for disks at IEEE 1394 have each of a partition's parents looked at, 200 system calls; and for the files with
    names for network cards udevd looks anew when an event comes after three seconds without, 300 of them.
    """
    rules = root / "usr/lib/udev/rules.d"
    for name in IDLE_RULES:
        (rules / f"{name}.rules").unlink(missing_ok=True)
    for path in (root / "usr/lib/systemd/network").glob("*.link"):
        path.unlink()
    disks = rules / "60-persistent-storage.rules"
    if disks.exists():
        kept = [line for line in disks.read_text().splitlines(keepends=True) if _IDLE_ATTRIBUTE not in line]
        disks.write_text("".join(kept))


def write_static_nodes(index: Path, archive: Path) -> None:
    """Write a tar archive of the device nodes whose opening loads a module, for the guest to unpack in /dev.

    :param index: depmod's `modules.devname`: lines of module, node, type and number (`fuse fuse c10:229`).
    """
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, major, minor in re.findall(
            r"^\S+ ([\w/-]+) ([cb])(\d+):(\d+)$", index.read_text(), re.MULTILINE
        ):
            node = tarfile.TarInfo(name)
            node.type = tarfile.CHRTYPE if kind == "c" else tarfile.BLKTYPE
            node.mode = 0o600
            node.devmajor, node.devminor = int(major), int(minor)
            tar.addfile(node)
