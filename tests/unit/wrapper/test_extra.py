"""The user's own QEMU arguments pass verbatim unless they cannot mean under libvirt what they mean to QEMU alone."""

from __future__ import annotations

import pytest

from orchestrator.errors import TranslationError
from orchestrator.wrapper import extra


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-device", "virtio-balloon-pci"],
        ["-drive", "file=/x,,y,if=none,id=mine", "-device", "scsi-hd,drive=mine"],
        ["-set", "device.mine.bootindex=1"],
        ["-drive", "file=/x,if=none,id=hd9", "-device", "virtio-blk-pci,drive=hd9"],
        ["-global", "virtio-blk-pci.scsi=off"],
    ],
)
def test_passes_verbatim(arguments: list[str]) -> None:
    """Arguments that stand on their own, or refer to what they define, are unchanged."""
    assert extra.verbatim(arguments) == tuple(arguments)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-set", "drive.hd0.cache=none"], "-set drive.hd0.cache=none"),
        (["--set", "drive.hd0.cache=none"], "hd0"),
        (["-device", "virtio-blk-pci,drive=hd1"], "hd1"),
        (["-device", "scsi-cd,bus=scsi.0,drive=mine"], "scsi"),
        (["-device", "e1000,netdev=usernet"], "usernet"),
        (["-snapshot"], "-snapshot"),
        (["--snapshot"], "-snapshot"),
        (["-daemonize"], "-daemonize"),
    ],
)
def test_refuses_by_name(arguments: list[str], named: str) -> None:
    """References to libguestfs's own objects, and options that would lose data or the process, are refused."""
    with pytest.raises(TranslationError) as caught:
        extra.verbatim(["-device", "virtio-balloon-pci", *arguments])
    assert named in str(caught.value)
