"""What shows that QEMU really offers fw_cfg DMA to the guest, before any record says so.

Three witnesses, each reported as it is: the device's property, the register window that the guest's device tree
gives, and the DMA address register itself, which reads as "QEMU CFG" when it is there (QEMU, docs/specs/fw_cfg).
The window alone proves little: QEMU's `virt` machine writes its full size, 0x18, with DMA off too. Whether a launch may
go on is decided elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.domain.model import Arch
from orchestrator.errors import CapabilityError, HypervisorError, MonitorError
from orchestrator.values import dataclass

if TYPE_CHECKING:
    import libfdt

    from orchestrator.hypervisor.guest import Guest

COMPATIBLE = "qemu,fw-cfg-mmio"
DMA_OFFSET = 16  # of the DMA address register in the window; eight bytes, big-endian
_DMA_BYTES = 8
_IO_DMA_PORT = 0x514  # where a PC has the same register
_SIGNATURE = b"QEMU CFG"
_LARGEST_TREE = 2 << 20  # as QEMU's own bound (FDT_MAX_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FwCfgNode:
    """The fw_cfg node of a device tree: its path, and its register window in guest physical memory, in bytes."""

    path: str
    base: int
    size: int

    @property
    def holds_dma_register(self) -> bool:
        """Whether the window is large enough for the DMA address register."""
        return self.size >= DMA_OFFSET + _DMA_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class FwCfgEvidence:
    """What was found. None means: could not be looked at, and `unseen` says why.

    :ivar dma_enabled: the fw_cfg device's property.
    :ivar node: the device tree's node; a PC has none.
    :ivar register_answers: the DMA address register reads as the signature.
    """

    dma_enabled: bool
    node: FwCfgNode | None
    register_answers: bool | None
    unseen: str = ""

    @property
    def agrees(self) -> bool:
        """Whether no witness contradicts the property."""
        window = self.node is None or self.node.holds_dma_register or not self.dma_enabled
        return window and self.register_answers in {None, self.dma_enabled}


def dma_enabled(guest: Guest) -> bool:
    """Return the fw_cfg device's `dma_enabled` property, read back from the running QEMU.

    :raise MonitorError: the machine has no fw_cfg, or QEMU does not answer.
    """
    return bool(guest.qmp("qom-get", {"path": "/machine/fw_cfg", "property": "dma_enabled"}))


def device_tree(guest: Guest, scratch: Path) -> bytes:
    """Return the device tree that QEMU gives the guest (QEMU 7.2 and later).

    :param scratch: folder that QEMU can write to; nothing stays in it.
    :raise MonitorError: the machine has none, QEMU is too old, or may not write there.
    """
    file = scratch / f"{guest.uuid}.dtb"
    try:
        if guest.confined:
            return _handed_tree(guest, scratch)
        guest.qmp("dumpdtb", {"filename": str(file)})
        return file.read_bytes()
    except OSError as error:
        raise MonitorError("cannot read the device tree of", guest.name, error) from error
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def find_node(tree: bytes) -> FwCfgNode:
    """Return the fw_cfg node of a flattened device tree.

    :raise CapabilityError: libfdt's Python bindings are not there.
    :raise HypervisorError: no device tree, or no such node in it.
    """
    # Where this warning is an error, what SWIG 4.3.0 has made (Debian 13's) ends the interpreter by its import, or as
    # it exits: https://github.com/swig/swig/issues/3061.
    warnings.filterwarnings("ignore", "builtin type swigvarlink", DeprecationWarning)
    try:
        import libfdt
    except ImportError as error:
        from orchestrator.distributions import Part, hint  # here: no launch that works needs it

        raise CapabilityError("cannot read device trees", "libfdt", error, hint(Part.LIBFDT_PYTHON)) from error
    try:
        fdt = libfdt.Fdt(tree)
        if fdt.totalsize() > len(tree):  # libfdt trusts this number, and would read past the end
            raise HypervisorError("cannot read device tree", "", f"{len(tree)} of {fdt.totalsize()} bytes are there")
        blob = fdt.as_bytearray()
        # Not by walking over all nodes: asking for a property that is not there gives a reference to None away
        # (libfdt 1.6.1), and some hundred of those end the interpreter.
        offset = libfdt.fdt_node_offset_by_compatible(blob, -1, COMPATIBLE)
        if offset < 0:
            raise HypervisorError("cannot find node in device tree", COMPATIBLE)
        return _node(fdt, blob, offset)
    except libfdt.FdtException as error:
        raise HypervisorError("cannot read device tree", "", error) from error


def _handed_tree(guest: Guest, scratch: Path) -> bytes:
    """Return the device tree of a QEMU that may write nowhere else: it is handed a folder for it."""
    from orchestrator.hypervisor.handing import handed_folder  # here: only a confined QEMU is handed anything

    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with handed_folder(guest, Path(folder)) as name:
            guest.qmp("dumpdtb", {"filename": f"{name}/dtb"})
        descriptor = os.open(f"{folder}/dtb", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_LARGEST_TREE)


def _node(fdt: libfdt.Fdt, blob: bytearray, offset: int) -> FwCfgNode:
    """Return the node at an offset; its parent's cell counts say how wide `reg`'s numbers are."""
    import libfdt

    names = []
    parent = fdt.parent_offset(offset)
    address_bytes = 4 * libfdt.fdt_address_cells(blob, parent)
    size_bytes = 4 * libfdt.fdt_size_cells(blob, parent)
    reg = bytes(fdt.getprop(offset, "reg"))
    if len(reg) < address_bytes + size_bytes:
        raise HypervisorError("cannot read device tree", COMPATIBLE, f"reg has {len(reg)} bytes")
    while offset > 0:
        names.append(fdt.get_name(offset))
        offset = fdt.parent_offset(offset)
    return FwCfgNode(
        path="/" + "/".join(reversed(names)),
        base=int.from_bytes(reg[:address_bytes], "big"),
        size=int.from_bytes(reg[address_bytes : address_bytes + size_bytes], "big"),
    )


def register_answers(guest: Guest, node: FwCfgNode | None) -> bool:
    """Tell whether the DMA address register is really there: read as two words it says "QEMU" and "CFG ".

    Reading it changes nothing in the device.

    :param node: where the device is; None means a PC, where it has fixed I/O ports.
    :raise MonitorError: QEMU does not answer.
    """
    if node is None:
        commands = [f"i /w {_IO_DMA_PORT + offset:#x}" for offset in (0, 4)]
    else:
        commands = [f"xp /2wx {node.base + DMA_OFFSET:#x}"]
    answers = [guest.qmp("human-monitor-command", {"command-line": command}) for command in commands]
    words = re.findall(r"[:=]\s*(0x[0-9a-f]+)(?:\s+(0x[0-9a-f]+))?", " ".join(answers))
    values = [int(word, 16) for pair in words for word in pair if word]
    return b"".join(struct.pack("<I", value) for value in values) == _SIGNATURE


def examine(guest: Guest, arch: Arch, scratch: Path) -> FwCfgEvidence:
    """Collect what can be seen of a guest's fw_cfg, while it is paused or runs.

    :param scratch: folder that QEMU can write to (the connection root's path, for the embedded driver).
    :raise MonitorError: not even the property could be read.
    """
    enabled = dma_enabled(guest)
    node, unseen = None, []
    if arch is Arch.AARCH64:
        try:
            node = find_node(device_tree(guest, scratch))
        except (HypervisorError, CapabilityError) as error:
            unseen.append(str(error))
    answers = None
    if node is not None or arch is Arch.X86_64:
        try:
            answers = register_answers(guest, node)
        except MonitorError as error:
            unseen.append(str(error))
    return FwCfgEvidence(dma_enabled=enabled, node=node, register_answers=answers, unseen="; ".join(unseen))
