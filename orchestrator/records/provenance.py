"""Where a launch was made: on hardware, on a virtualised or an emulated host, and by which clock it was timed.

By the rules of systemd-detect-virt (src/basic/virt.c, 2026-11-26), read from files: no program is started. An emulated
host is software, whatever accelerator its guests use, and one with an instruction clock counts instructions instead of
time: neither is ever put together with hardware, or shown as hardware. What cannot be found out is None. Words on the
kernel's command line can say that a host is less than it seems, and never that it is more:

    guestlaunch.host=emulated            this host is emulated
    guestlaunch.clock=instructions       and its clock counts instructions; `host`: that of the emulator's host
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.values import dataclass

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent

# In the vendor's names of virtual machines, at their beginning. Amazon and Oracle sell hardware under the same name.
_VENDORS = (
    "KVM", "OpenStack", "KubeVirt", "QEMU", "VMware", "VMW", "innotek GmbH", "VirtualBox", "Xen", "Bochs", "Parallels",
    "BHYVE", "Hyper-V", "Apple Virtualization", "Google Compute Engine",
)  # fmt: skip
_DMI = ("product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version")
_READ_BYTES = 1 << 16
# CPUID leaf of hypervisors: EAX, then the signature in EBX, ECX and EDX.
_LEAF = 0x4000_0000
_TCG_SIGNATURE = b"TCGTCGTCGTCG"
_GUEST_CLOCKS = ("kvm-clock", "hyperv_clocksource")


class HostKind(StrEnum):
    """What kind of host a launch ran on."""

    BARE = "bare"
    VIRTUALISED = "virtualised"
    EMULATED = "emulated"


class Clock(StrEnum):
    """What its times are: those of a host, or instructions that an emulator counted, at a fixed rate."""

    HOST = "host"
    INSTRUCTIONS = "instructions"


# The closed set of names by which launches are grouped and counted.
UNKNOWN = "unknown"
INSTRUCTION_CLOCK = "emulated-instructions"
LABELS = (*(str(kind) for kind in HostKind), INSTRUCTION_CLOCK, UNKNOWN)

# Beside an accelerator in a narrow table; what is not here is hardware, or not known.
SIGNS: Mapping[str, str] = {HostKind.VIRTUALISED: "/v", HostKind.EMULATED: "/e", INSTRUCTION_CLOCK: "/i"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a launch was made; None for what is not known, as in lines that are older than this."""

    host: HostKind | None = None
    clock: Clock | None = None

    @property
    def label(self) -> str:
        """One of `LABELS`: what launches are grouped and counted by."""
        if self.clock is Clock.INSTRUCTIONS:
            return INSTRUCTION_CLOCK
        return str(self.host) if self.host is not None else UNKNOWN


def mark(label: str, *, arch: str | None = None, accel: str | None = None) -> str:
    """Return what has to be said beside figures from such a host; empty on bare hardware.

    Nor is anything said of an emulated guest on a host that is not known: nobody takes that for hardware.

    :param label: one of `LABELS`, or empty where it does not matter (`kept_apart`).
    :param arch: the guest's, which under KVM is the host's.
    """
    if label in {"", HostKind.BARE} or (label == UNKNOWN and accel != "kvm"):
        return ""
    if label == UNKNOWN:
        return "host not known"
    if label == HostKind.VIRTUALISED:
        return "virtualised host"
    emulated = "emulated Arm host" if accel == "kvm" and arch == "aarch64" else "emulated host"
    return f"{emulated}, instruction clock" if label == INSTRUCTION_CLOCK else emulated


def marked(accel: str, label: str, *, arch: str | None = None) -> str:
    """Return an accelerator with the mark of its host, if it needs one: `kvm (emulated Arm host)`."""
    said = mark(label, arch=arch, accel=accel)
    return f"{accel} ({said})" if said else accel


def kept_apart(label: str, accel: str | None) -> str:
    """Return the label where it decides whether results compare; empty for what TCG does on any real computer.

    Under TCG nothing traps: a host that is a guest itself is merely slower there, as another CPU would be.
    """
    emulated = label in {HostKind.EMULATED, INSTRUCTION_CLOCK}
    return label if accel != "tcg" or emulated else ""


def of_event(event: Mapping[str, object]) -> Provenance:
    """Return where the launch of a log line was made; what the line does not know, or says wrongly, is None."""
    host, clock = event.get("host"), event.get("clock")
    return Provenance(
        host=next((kind for kind in HostKind if kind == host), None),
        clock=next((kind for kind in Clock if kind == clock), None),
    )


NOWHERE = Provenance()


def accel_of(event: LaunchEvent) -> str:
    """Return the accelerator of a launch's line in words, with what has to be said of its host."""
    return marked(event["accel"] or "no accelerator", of_event(event).label, arch=event.get("arch"))


@functools.cache
def provenance() -> Provenance:
    """Return where this process makes its launches; found out once, when it is asked for."""
    return detect(Path("/"))


def detect(root: Path) -> Provenance:
    """Return what the files below `root` say of the host."""
    words = dict(word.partition("=")[::2] for word in _text(root / "proc/cmdline").split())
    told = words.get("guestlaunch.clock")
    if told == Clock.INSTRUCTIONS:
        return Provenance(host=HostKind.EMULATED, clock=Clock.INSTRUCTIONS)
    kind = HostKind.EMULATED if words.get("guestlaunch.host") == HostKind.EMULATED else _kind(root)
    if kind is HostKind.EMULATED:  # its clock may be either: nothing in it tells
        return Provenance(host=kind, clock=Clock.HOST if told == Clock.HOST else None)
    return Provenance(host=kind, clock=None if kind is None else Clock.HOST)


def _kind(root: Path) -> HostKind | None:
    lines = [line.partition(":")[::2] for line in _text(root / "proc/cpuinfo").splitlines()]
    cpu = {key.strip(): value.strip() for key, value in lines}
    if "flags" in cpu:
        return _pc(root, cpu)
    if "CPU implementer" in cpu:
        return _arm(root, cpu)
    return None


def _pc(root: Path, cpu: Mapping[str, str]) -> HostKind:
    if _signature(root) == _TCG_SIGNATURE or cpu.get("model name", "").startswith("QEMU TCG CPU"):
        return HostKind.EMULATED
    named = _vendor(root)
    guest = "hypervisor" in cpu["flags"].split() or named is not None
    if not guest or "control_d" in _text(root / "proc/xen/capabilities"):
        return HostKind.BARE
    # QEMU without KVM gives its guests no clock of a hypervisor's.
    clocks = _text(root / "sys/devices/system/clocksource/clocksource0/available_clocksource")
    software = named == "QEMU" and clocks and not any(name in clocks for name in _GUEST_CLOCKS)
    return HostKind.EMULATED if software else HostKind.VIRTUALISED


def _arm(root: Path, cpu: Mapping[str, str]) -> HostKind | None:
    if cpu["CPU implementer"] == "0x00":  # no maker's: QEMU's `max`
        return HostKind.EMULATED
    tree = root / "proc/device-tree"
    board, named = _text(tree / "compatible"), _vendor(root)
    virt = "linux,dummy-virt" in board or _holds(tree, "fw-cfg") or named == "QEMU"
    if virt and (root / "dev/kvm").exists():
        # QEMU's `virt` board with an EL2 of its own. Hardware gives its guests one since Linux 6.16 only, and such a
        # host is kept apart from others all the same.
        return HostKind.EMULATED
    if virt or named is not None or (tree / "hypervisor/compatible").exists() or _on_xen(root):
        return HostKind.VIRTUALISED
    if _text(root / "sys/class/dmi/id/sys_vendor").startswith("Amazon EC2"):
        return HostKind.BARE if ".metal" in _text(root / "sys/class/dmi/id/product_name") else HostKind.VIRTUALISED
    # A container may see neither a device tree nor the firmware's tables.
    return HostKind.BARE if board or _text(root / "sys/class/dmi/id/sys_vendor") else None


def _on_xen(root: Path) -> bool:
    return _text(root / "sys/hypervisor/type") == "xen" and "control_d" not in _text(root / "proc/xen/capabilities")


def _vendor(root: Path) -> str | None:
    """Return the name by which the firmware's tables call a virtual machine; None for hardware."""
    for name in _DMI:
        text = _text(root / "sys/class/dmi/id" / name)
        for vendor in _VENDORS:
            if text.startswith(vendor):
                return vendor
    return None


def _holds(folder: Path, name: str) -> bool:
    try:
        return any(name in entry.name for entry in folder.iterdir())
    except OSError:
        return False


def _signature(root: Path) -> bytes:
    """Return the hypervisor's signature, which only root can read, and only where the kernel has its module for it."""
    try:
        descriptor = os.open(root / "dev/cpu/0/cpuid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, 16, _LEAF)[4:]
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_READ_BYTES).decode("utf-8", "replace").strip("\0\n ")
    except OSError:
        return ""
