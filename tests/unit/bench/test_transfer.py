"""Reading a transfer off QEMU's trace: the same figures however the lines are cut into blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench.transfer import Payload, Transfer, _TraceReader, predicted_accesses
from orchestrator.domain.profiles import load_profile

READ = "77@1700000000.000000:fw_cfg_read 0x55 = 0xff\n"


def select(at_us: int, key: int) -> str:
    """Return the trace line of a key's selection."""
    return f"77@1700000000.{at_us:06}:fw_cfg_select 0x55 key 0x{key:04x} 'k', ret: 1\n"


# The firmware's own items, the kernel, the initrd's size, the initrd, the command line.
TRACE = (
    select(100, 0x00) + 4 * READ + select(200, 0x11) + 30 * READ + select(500, 0x0B) + 2 * READ
    + select(510, 0x12) + 10 * READ + select(700, 0x14) + 5 * READ
)  # fmt: skip


def walked(block: int) -> Transfer:
    """Feed the trace in blocks of a size."""
    walk = _TraceReader()
    for position in range(0, len(TRACE), block):
        if walk.over:
            break
        walk.feed(TRACE[position : position + block].encode())
    assert walk.over
    return walk.result(fw_cfg_dma=False, sizes=(240, 80), counted=True)


@pytest.mark.parametrize("block", [1, 7, 64, 1000, 10**6])
def test_any_blocks_give_the_same_figures(block: int) -> None:
    """Counts are exact: of the payload, and of all until its end; nothing after it."""
    seen = walked(block)
    assert (seen.accesses, seen.accesses_total) == (40, 46)
    assert (seen.kernel_ns, seen.initrd_ns, seen.duration_ns) == (310_000, 190_000, 500_000)


def test_a_kernel_in_a_named_file() -> None:
    """Its reads count like those of the kernel's own key; without the directory it is missed, and that is said."""
    files = "77@1700000000.000000:fw_cfg_add_file 0x55 #0: etc/boot/kernel (240 bytes)\n"
    named = TRACE.replace("key 0x0011", "key 0x0020")
    walk = _TraceReader()
    walk.feed((files + named).encode())
    assert walk.over
    assert walk.result(fw_cfg_dma=False, sizes=(240, 80), counted=True) == walked(64)
    walk = _TraceReader()
    walk.feed(named.encode())
    assert (walk.over, walk.seen) == (False, "initrd, and nothing after both")


def test_not_over_before_both_are_there() -> None:
    """Whatever is selected between kernel and initrd is no end."""
    walk = _TraceReader()
    walk.feed((select(1, 0x11) + select(2, 0x0B) + select(3, 0x12)).encode())
    assert not walk.over


def test_predictions(tmp_path: Path) -> None:
    """Without DMA 8 bytes an access and the rest by 4, 2 and 1; with DMA one operation for each MiB begun."""
    (tmp_path / "kernel").write_bytes(bytes((3 << 20) + 15))
    (tmp_path / "initrd").write_bytes(bytes(8))
    payload = Payload(kernel=tmp_path / "kernel", initrd=tmp_path / "initrd")
    profile = load_profile("aarch64-uefi")
    assert predicted_accesses(payload, profile, fw_cfg_dma=False) == (3 << 17) + 1 + 3 + 1
    assert predicted_accesses(payload, profile, fw_cfg_dma=True) == 4 + 1
    assert predicted_accesses(payload, load_profile("x86_64-seabios"), fw_cfg_dma=False) is None
