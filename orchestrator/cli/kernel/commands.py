"""guestlaunch kernel: the group of commands."""

from __future__ import annotations

import click

from orchestrator.cli.kernel.compare import compare
from orchestrator.cli.kernel.matrix import matrix
from orchestrator.cli.kernel.run import run
from orchestrator.cli.options import examples


@click.group(
    epilog=examples(
        "guestlaunch kernel run arch/arm64/boot/Image -- uname -a",
        "git bisect run sh -c 'make -j8 Image || exit 125; guestlaunch kernel run arch/arm64/boot/Image -- ./test'",
        "guestlaunch kernel matrix --axis profile=aarch64-uefi,aarch64-bare Image -- true",
        "guestlaunch kernel compare --rounds 10 before/Image after/Image -- true",
    )
)
def kernel() -> None:
    """Try kernels: boot them under UEFI or without, run a command in the guest, and tell how that ended."""


kernel.add_command(run)
kernel.add_command(matrix)
kernel.add_command(compare)
