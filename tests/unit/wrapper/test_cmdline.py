"""The client's kernel command line is fitted to a guest of another arch, the user's part untouched."""

from __future__ import annotations

import pytest

from orchestrator.domain.model import Arch
from orchestrator.wrapper.cmdline import for_guest

X86 = "panic=1 console=ttyS0 edd=off lpj=5187000 printk.time=1 root=UUID=1 quiet TERM=xterm lpj=1 console=ttyS9  x"
ARM = "panic=1 console=ttyAMA0 earlyprintk=pl011,0x9000000 ignore_loglevel efi-rtc=noprobe edd=off TERM=linux"


def test_x86_client_arm_guest() -> None:
    """Console and delay loop of the host's arch go; what follows TERM is the user's."""
    assert for_guest(X86, arch=Arch.AARCH64, console="ttyAMA0", host_arch="x86_64") == (
        "panic=1 console=ttyAMA0 edd=off printk.time=1 root=UUID=1 quiet TERM=xterm lpj=1 console=ttyS9  x"
    )


def test_same_arch_changes_nothing() -> None:
    """A guest of the client's own arch gets the line as it is."""
    assert for_guest(X86, arch=Arch.X86_64, console="ttyS0", host_arch="x86_64") == X86
    assert for_guest(ARM, arch=Arch.AARCH64, console="ttyAMA0", host_arch="aarch64") == ARM


def test_arm_client_x86_guest() -> None:
    """Arm's early console and EFI clock parameters do not go to an x86 guest."""
    expected = "panic=1 console=ttyS0 ignore_loglevel edd=off TERM=linux"
    assert for_guest(ARM, arch=Arch.X86_64, console="ttyS0", host_arch="aarch64") == expected


@pytest.mark.parametrize("line", ["", "console=x", "TERM=linux"])
def test_odd_lines(line: str) -> None:
    """A line without TERM is all libguestfs's; nothing is added."""
    wanted = line.replace("console=x", "console=ttyS0")
    assert for_guest(line, arch=Arch.X86_64, console="ttyS0", host_arch="x86_64") == wanted
