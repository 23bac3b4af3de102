"""The smallest domains that QEMU runs, for tests of what the host sees of a guest. Nothing boots in them."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from orchestrator.domain.model import Arch
from orchestrator.hypervisor.emulator import find_emulator

_QEMU = "http://libvirt.org/schemas/domain/qemu/1.0"
_MACHINE = {Arch.AARCH64: ("virt", "fw_cfg_mem"), Arch.X86_64: ("q35", "fw_cfg_io")}


def tiny_domain(
    name: str,
    arch: Arch = Arch.AARCH64,
    *,
    dma: bool = True,
    disk: Path | None = None,
    qemu_args: tuple[str, ...] = (),
) -> str:
    """Return the XML of a domain without firmware or kernel of ours, under TCG."""
    machine, device = _MACHINE[arch]
    cpu = "<cpu mode='custom'><model>cortex-a57</model></cpu>" if arch is Arch.AARCH64 else ""
    drive = ""
    if disk is not None:
        drive = (
            "<disk type='file'><driver name='qemu' type='raw'/>"
            f"<source file={quoteattr(str(disk))}/><target dev='vda' bus='virtio'/></disk>"
        )
    arguments = ("-global", f"{device}.dma_enabled={'on' if dma else 'off'}", *qemu_args)
    passed = "".join(f"<qemu:arg value={quoteattr(argument)}/>" for argument in arguments)
    return (
        f"<domain type='qemu' xmlns:qemu='{_QEMU}'><name>{escape(name)}</name>"
        f"<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='{arch}' machine='{machine}'>hvm</type></os>{cpu}"
        f"<devices><emulator>{find_emulator(arch)}</emulator><controller type='usb' model='none'/>"
        f"<memballoon model='none'/>{drive}</devices><qemu:commandline>{passed}</qemu:commandline></domain>"
    )
