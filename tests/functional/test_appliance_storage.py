"""What the appliance can do beside storage, which tests/functional/test_parity.py is about."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from tests.disks import MIB, DiskFactory, bus_is_passed_on
from tests.hosts import ACCEL, accel, lacking
from tests.running import Guestlaunch
from tests.storage import commands
from tests.web import fetching, web_server


def test_surroundings_of_the_daemon(guestlaunch: Guestlaunch, disk_image: DiskFactory, tmp_path: Path) -> None:
    """What guestfsd and its programs rely on: network and DNS, machine-id, /dev/fd, links, time-outs, virtio disks."""
    disk = disk_image("first.img")
    virtio = disk_image("second.img", size_mib=32, filesystem=False)
    virtio_disk = "/dev/vda" if bus_is_passed_on() else "/dev/sdb"
    fetch = tmp_path / "fetch"  # newer appliances have no curl
    with web_server(b"from the host\n") as port:
        fetch.write_text(fetching(port))
        script = commands(
            f"add-drive {disk} readonly:true format:raw",
            f"add-drive {virtio} readonly:true format:raw iface:virtio",
            "set-network true",
            "run",
            "blockdev-getsize64 /dev/sdb",
            f"debug-upload {fetch} /tmp/fetch 0755",
            'debug sh "bash /tmp/fetch"',
            'debug sh "cat /etc/resolv.conf"',
            'debug sh "cat /etc/machine-id /etc/machine-id | tr -d 0-9a-f | wc -c; wc -c </etc/machine-id"',
            f'debug sh "echo through | cat /dev/fd/0; ls -d {virtio_disk}"',
            'debug sh "readlink /var/run /var/lock; sort -u /sys/block/sd*/device/timeout"',
        )
        lines = guestlaunch("guestfish", *ACCEL, stdin=script).ok().stdout.split()
    assert lines == [
        str(32 * MIB), "from", "the", "host", "nameserver", "169.254.2.3", "2", "33", "through", virtio_disk,
        "../run", "../run/lock", "300",
    ]  # fmt: skip


def groups(guestlaunch: Guestlaunch, *command: str, environ: dict[str, str]) -> set[str]:
    """Return the feature groups that an appliance has."""
    code = (
        "import guestfs\n"
        "g = guestfs.GuestFS(python_return_dict=True)\n"
        "g.add_drive_scratch(1 << 20)\n"
        "g.launch()\n"
        "print([name for name in g.available_all_groups() if g.feature_available([name])])\n"
    )
    run = guestlaunch.run(*command, "/usr/bin/python3", "-c", code, environ=environ, timeout_s=400)
    return set(ast.literal_eval(run.ok().stdout))


@pytest.mark.timeout(900)
def test_feature_groups_are_those_of_stock(guestlaunch: Guestlaunch) -> None:
    """Stock's appliance on this host has no feature that ours lacks, but for what Debian makes for x86 alone.

    Ours has more where the host does without libguestfs's feature packages (libguestfs-xfs, libguestfs-rsync).
    """
    if not any(os.access(kernel, os.R_OK) for kernel in Path("/boot").glob("vmlinu*")):
        pytest.skip("stock libguestfs needs a readable kernel in /boot")
    direct = {"LIBGUESTFS_BACKEND": "direct"}
    if accel() == "tcg":
        direct["LIBGUESTFS_BACKEND_SETTINGS"] = "force_tcg"
    stock = groups(guestlaunch, environ=direct)
    assert {"lvm2", "mdadm", "ldm", "luks", "btrfs", "ntfs3g", "f2fs", "squashfs", "augeas", "hivex"} <= stock
    host = os.uname().machine
    profiles = {"x86_64": "x86_64-bare", "aarch64": "aarch64-bare"}
    for arch, profile in profiles.items():
        if lacking([f"qemu-system-{arch}"]):
            continue
        ours = groups(
            guestlaunch, "guestlaunch", "exec", "--accel", accel(profile), "--profile", profile, "--", environ={}
        )
        bootloaders = {"extlinux", "syslinux"} if arch != host else set()
        assert stock - ours <= bootloaders, arch
        assert ours - stock <= {"rsync", "xfs"} | bootloaders, arch
        assert {"rsync", "xfs"} <= ours, arch
