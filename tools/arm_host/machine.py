"""What the emulated host is made of, as values: QEMU's arguments. Starts nothing.

Without `real_time` all clocks in it count instructions, one a nanosecond (`-icount shift=0`): what is measured in it
does not depend on how busy this machine is, and is no hardware's time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Mitigations and randomness cost instructions that a measurement is better without; a panic ends the machine. The
# kernel runs at EL1, as on ARMv8.0: at EL2 (VHE) it would live by a timer that QEMU 7.2 does not save, and a machine
# that went on would now and then never wake.
_CMDLINE = (
    "console=ttyAMA0 quiet loglevel=4 mitigations=off kpti=off norandmaps nokaslr audit=0 panic=-1 random.trust_cpu=on "
    "kvm-arm.mode=nvhe"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What somebody may choose. A saved machine goes on only in a machine of its own shape.

    :ivar cpu: by QEMU's name. Neoverse N1 is a server's, and has no pointer authentication, which is slow to emulate.
    """

    cpu: str = "neoverse-n1"
    smp: int = 1
    memory_mib: int = 4096
    real_time: bool = False

    @property
    def cmdline(self) -> str:
        """The kernel's command line; by its last words guestlaunch (records/provenance) knows where it is."""
        clock = "host" if self.real_time else "instructions"
        return f"{_CMDLINE} guestlaunch.host=emulated guestlaunch.clock={clock}"

    def arguments(self) -> list[str]:
        """Return QEMU's arguments for it."""
        clock = [] if self.real_time else ["-icount", "shift=0,sleep=on"]
        thread = "multi" if self.real_time else "single"
        return [
            *("-machine", "virt,virtualization=on,gic-version=3,memory-backend=ram"),
            *("-accel", f"tcg,thread={thread}", *clock),
            *("-cpu", self.cpu, "-smp", str(self.smp), "-m", f"{self.memory_mib}M"),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What one run of a machine works with; files by the path that QEMU is to open.

    :ivar disks: qcow2 images, the system's first.
    :ivar ram: file of the memory; `writes_ram` where it is to be kept, else it stays as it is.
    :ivar agent: descriptor of a socket, the other end of the agent's port; `monitor` is QMP's.
    :ivar incoming: whether it goes on from a saved machine.
    """

    kernel: str
    initrd: str
    disks: Sequence[str]
    ram: str
    writes_ram: bool
    console: str
    agent: int
    monitor: int
    incoming: bool


def command_line(shape: Shape, parts: Parts) -> list[str]:
    """Return the arguments of a QEMU that has no display, no network, and no name in any file system."""
    share = "on" if parts.writes_ram else "off"
    line = [
        *("-name", "arm-host", *shape.arguments()),
        *("-display", "none", "-no-user-config", "-nodefaults", "-no-reboot"),
        *("-object", f"memory-backend-file,id=ram,size={shape.memory_mib}M,share={share},mem-path={quoted(parts.ram)}"),
        *("-kernel", parts.kernel, "-initrd", parts.initrd, "-append", shape.cmdline),
        *("-chardev", f"file,id=console,path={quoted(parts.console)},append=on", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=monitor,fd={parts.monitor}", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=agent,fd={parts.agent}", "-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=agent,name=arm-host.agent", "-device", "virtio-rng-pci,romfile="),
    ]
    for number, disk in enumerate(parts.disks):
        # Nothing of it has to outlive a power cut.
        line += ["-drive", f"file={quoted(disk)},format=qcow2,if=none,id=disk{number},cache=unsafe"]
        line += ["-device", f"virtio-blk-pci,drive=disk{number},romfile="]
    return [*line, *(["-incoming", "defer"] if parts.incoming else [])]


def quoted(value: str) -> str:
    """Return a value as it stands in a list of QEMU's that commas separate."""
    return value.replace(",", ",,")
