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


@pytest.mark.parametrize(
    ("arguments", "memory_mib", "vcpus", "rest"),
    [
        ([], None, None, ()),
        (["-device", "x", "-m", "4096"], 4096, None, ("-device", "x")),
        (["--m", "2G", "-smp", "3"], 2048, 3, ()),
        (["-m", "size=1536M,slots=2,maxmem=8G"], 1536, None, ("-m", "slots=2,maxmem=8G")),
        (["-m", "1048577K"], 1025, None, ()),
        (["-m", "512", "-m", "1g"], 1024, None, ()),
        (["-m", "1.5G"], 1536, None, ()),
        (["-smp", "cpus=4"], None, 4, ()),
        (["-smp", "4,sockets=2"], None, None, ("-smp", "4,sockets=2")),
        (["-name", "m"], None, None, ("-name", "m")),
    ],
)
def test_sizes_are_taken(
    arguments: list[str], memory_mib: int | None, vcpus: int | None, rest: tuple[str, ...]
) -> None:
    """Sizes as QEMU reads them; what else there is stays, in its order."""
    found = extra.take_size(arguments)
    assert (found.memory_mib, found.vcpus, found.rest) == (memory_mib, vcpus, rest)


@pytest.mark.parametrize("arguments", [["-m"], ["-m", "lots"], ["-m", "0"], ["-smp", "2M"], ["-smp", "0"], ["-smp"]])
def test_a_size_that_cannot_be_read_is_refused(arguments: list[str]) -> None:
    """What cannot be read is refused by name: dropping it would launch another guest than was asked for."""
    with pytest.raises(TranslationError) as caught:
        extra.take_size(arguments)
    assert arguments[0] in str(caught.value)
