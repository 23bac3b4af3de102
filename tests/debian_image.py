"""An image of Debian 12 for arm64 as distributions' cloud images are: systemd, an ssh server, cloud-init, GRUB.

debootstrap's first stage runs on the host, the second in an appliance, which is of the image's own architecture.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.disks import MIB, host
from tests.running import Guestlaunch

_SUITE, _ARCHIVE = "bookworm", "http://deb.debian.org/debian"
_PACKAGES = (
    "systemd-sysv", "udev", "kmod", "dbus", "iproute2", "netbase", "openssh-server", "cloud-init", "initramfs-tools",
    "python3-cffi-backend",  # what debootstrap does not find by the virtual package that cloud-init's need
    "linux-image-cloud-arm64", "grub-efi-arm64", "e2fsprogs",
)  # fmt: skip
_SECOND_STAGE = Path(__file__).parent / "data" / "debian" / "second-stage"
_ESP_MIB, _SIZE_MIB = 64, 2048
_TIMEOUT_S = 3600.0
_FILES = {
    "etc/dpkg/dpkg.cfg.d/unsafe": "force-unsafe-io\n",
    "etc/initramfs-tools/conf.d/driver-policy": "MODULES=list\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\next4\n",
    "etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\nLABEL=ESP /boot/efi vfat umask=0077 0 1\n",
    "etc/default/grub": 'GRUB_TIMEOUT=0\nGRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="console=ttyAMA0"\n',
    "etc/systemd/network/dhcp.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n",
    "etc/cloud/cloud.cfg.d/90_local.cfg": "datasource_list: [NoCloud, None]\nnetwork: {config: disabled}\n",
    "etc/hostname": "image\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 image\n",
}


def make_image(folder: Path, guestlaunch: Guestlaunch) -> Path:
    """Make the image, as root; it takes some 20 minutes where the appliance is emulated."""
    root, disk, image = folder / "root", folder / "disk.raw", folder / "image.qcow2"
    first_stage = ["debootstrap", "--foreign", "--arch=arm64", "--variant=minbase"]
    first_stage += [f"--include={','.join(_PACKAGES)}", _SUITE, str(root), _ARCHIVE]
    subprocess.run(first_stage, check=True, capture_output=True, timeout=_TIMEOUT_S)
    if (root / "proc").is_symlink():  # in containers
        (root / "proc").unlink()
        (root / "proc").mkdir()
    (root / "boot/efi").mkdir()
    shutil.copy(_SECOND_STAGE, root / "second-stage")
    for name, text in _FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    _make_disk(disk, root)
    shutil.rmtree(root)
    script = (
        "cd /sysroot; for f in dev proc sys; do mount --rbind /$f $f; done; chroot . sh /second-stage 2>&1; "
        "echo status $?; for f in dev proc sys; do umount -l $f; done"
    )
    said = guestlaunch(
        "exec", "--memory-mib", "1536", "--", "guestfish", "--format=raw", "-a", disk, "run", ":", "mount", "/dev/sda2",
        "/", ":", "mount", "/dev/sda1", "/boot/efi", ":", "debug", "sh", script, ":", "sync",
        timeout_s=_TIMEOUT_S,
    ).ok()  # fmt: skip
    assert "status 0" in said.stdout, str(said)
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", str(disk), str(image)]
    subprocess.run(convert, check=True, timeout=_TIMEOUT_S)
    disk.unlink()
    return image


def _make_disk(disk: Path, root: Path) -> None:
    """Make a disk with an EFI system partition and a file system of what is below a folder."""
    with disk.open("wb") as file:
        file.truncate(_SIZE_MIB * MIB)
    host("/usr/sbin/sfdisk", "--quiet", disk, stdin=f"label: gpt\nsize={_ESP_MIB}M, type=uefi\ntype=linux\n")
    esp = disk.with_suffix(".esp")
    with esp.open("wb") as file:
        file.truncate(_ESP_MIB * MIB)
    host("/usr/sbin/mkfs.fat", "-n", "ESP", esp)
    host("dd", f"if={esp}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc", "status=none")
    esp.unlink()
    first = (1 + _ESP_MIB) * MIB
    size = f"{_SIZE_MIB - _ESP_MIB - 2}M"
    host("/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, "-E", f"offset={first}", disk, size)
