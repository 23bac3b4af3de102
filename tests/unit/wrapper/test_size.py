"""A second `-m` or `-smp`, the user's own, is the guest's size."""

from __future__ import annotations

import pytest

from orchestrator.errors import TranslationError
from orchestrator.wrapper import size


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
def test_taken(arguments: list[str], memory_mib: int | None, vcpus: int | None, rest: tuple[str, ...]) -> None:
    """Sizes as QEMU reads them; what else there is stays, in its order."""
    found = size.take(arguments)
    assert (found.memory_mib, found.vcpus, found.rest) == (memory_mib, vcpus, rest)


@pytest.mark.parametrize("arguments", [["-m"], ["-m", "lots"], ["-m", "0"], ["-smp", "2M"], ["-smp", "0"], ["-smp"]])
def test_refused(arguments: list[str]) -> None:
    """What cannot be read is refused by name: dropping it would launch another guest than was asked for."""
    with pytest.raises(TranslationError) as caught:
        size.take(arguments)
    assert arguments[0] in str(caught.value)
