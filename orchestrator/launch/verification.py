"""Which fw_cfg path is in force, read back from a paused guest before the launch is called DMA or not."""

from __future__ import annotations

from pathlib import Path

from orchestrator.domain.model import Arch
from orchestrator.errors import TransferPathError
from orchestrator.hypervisor.fw_cfg import examine
from orchestrator.hypervisor.guest import Guest
from orchestrator.records.record import FwCfg


def verify_fw_cfg(guest: Guest, *, requested: bool, arch: Arch, scratch: Path) -> FwCfg:
    """Read back the fw_cfg path: QEMU's property, the guest's device tree (on Arm), the DMA register itself.

    :raise TransferPathError: the property is not what was asked for, or the guest could not use DMA.
    """
    found = examine(guest, arch, scratch)
    if found.dma_enabled is not requested:
        asked, got = ("on", "off") if requested else ("off", "on")
        raise TransferPathError("fw_cfg DMA is not as asked for", guest.name, f"asked for {asked}, QEMU says {got}")
    if not found.agrees:
        why = f"its window {found.node} or its register (answers: {found.register_answers}) says otherwise"
        raise TransferPathError("fw_cfg DMA is not what QEMU's property says", guest.name, why)
    node = found.node
    return FwCfg(
        requested=requested,
        dma_property=found.dma_enabled,
        window_base=node.base if node else None,
        window_size=node.size if node else None,
        window_has_dma=node.holds_dma_register if node else None,
        register_answers=found.register_answers,
        unseen=found.unseen or None,
    )
