"""Command lines of libguestfs for the tests: captured ones, and newer versions' and Arm's from their sources."""

from __future__ import annotations

import json
from pathlib import Path

CAPTURED: dict[str, list[str]] = json.loads(
    (Path(__file__).parent / "data" / "libguestfs-1.48.6-x86_64.json").read_text(encoding="ascii")
)["launches"]

SOCKET = "/tmp/libguestfsXXXXXX/guestfsd.sock"
RNG = ["-object", "rng-random,filename=/dev/urandom,id=rng0", "-device", "virtio-rng-pci,rng=rng0"]
ROOT = ["-drive", "file=/srv/app/root,snapshot=on,id=appliance,cache=unsafe,if=none,format=raw",
        "-device", "scsi-hd,drive=appliance"]  # fmt: skip
SERIAL = ["-device", "virtio-serial-pci", "-serial", "stdio", "-chardev", f"socket,path={SOCKET},id=channel0",
          "-device", "virtserialport,chardev=channel0,name=org.libguestfs.channel.0"]  # fmt: skip
DISK = ["-drive", "file=/srv/a.img,cache=writeback,format=raw,id=hd0,if=none", "-device", "scsi-hd,drive=hd0"]
_OVERLAY_DRIVE = (
    "file.file.filename=/tmp/o1.qcow2,file.driver=qcow2,file.backing.file.locking=off,cache=unsafe,id=hd0,if=none"
)
OVERLAY = ["-drive", _OVERLAY_DRIVE, "-device", "scsi-hd,drive=hd0"]
PASST = ["-netdev", "stream,id=usernet,addr.type=unix,addr.path=/tmp/x/passt.sock",
         "-device", "virtio-net-pci,netdev=usernet"]  # fmt: skip
BOOT = ["-kernel", "/srv/app/kernel", "-initrd", "/srv/app/initrd"]
HEAD = ["-global", "virtio-blk-pci.scsi=off", "-no-user-config", "-nodefaults", "-display", "none"]


def launch(*middle: str, append: str = "panic=1 TERM=linux", users: tuple[str, ...] = ()) -> list[str]:
    """Return the least launch with middle before `-append` and the user's own arguments after it."""
    return [*BOOT, *middle, "-append", append, *users]


# v1.58.0 to v1.60.1 on x86_64: `-cpu max` alone, no -no-hpet; since v1.52.0 also: machine q35, passt for the network.
X86_64_V1_58 = [
    *HEAD, "-machine", "q35,accel=kvm:tcg,graphics=off", "-cpu", "max", "-smp", "4", "-m", "1280", "-no-reboot",
    "-rtc", "driftfix=slew", "-global", "kvm-pit.lost_tick_policy=discard", *BOOT, *RNG,
    "-device", "virtio-scsi-pci,id=scsi", *OVERLAY, *ROOT, *SERIAL, *PASST, "-append", "panic=1 TERM=linux",
]  # fmt: skip

# v1.48.6 on aarch64 with KVM: gic-version, -cpu host, UEFI by pflash whose code has the bare flag `readonly`.
AARCH64_V1_48 = [
    *HEAD, "-machine", "virt,gic-version=host,accel=kvm:tcg", "-cpu", "host", "-m", "1280", "-no-reboot",
    "-rtc", "driftfix=slew", "-drive", "if=pflash,format=raw,file=/usr/share/AAVMF/AAVMF_CODE.fd,readonly",
    "-drive", "if=pflash,format=raw,file=/tmp/libguestfsXXXXXX/vars1.fd", *BOOT, *RNG,
    "-device", "virtio-scsi-pci,id=scsi", *DISK, *ROOT, *SERIAL, "-append", "panic=1 TERM=linux",
]  # fmt: skip
