"""What the witnesses of a fw_cfg device say together, and trees that are none."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from orchestrator.errors import HypervisorError
from orchestrator.hypervisor.fw_cfg import FwCfgEvidence, FwCfgNode, find_node

FULL = FwCfgNode(path="/fw-cfg@9020000", base=0x9020000, size=0x18)
SHORT = FwCfgNode(path="/fw-cfg@9020000", base=0x9020000, size=0xA)


@pytest.mark.parametrize(
    ("enabled", "node", "answers", "agrees"),
    [
        (True, FULL, True, True),
        (True, FULL, False, False),
        (True, SHORT, True, False),
        (True, None, None, True),
        (False, FULL, False, True),  # QEMU's virt machine writes the full window either way
        (False, FULL, True, False),
        (False, None, False, True),
    ],
)
def test_agreement(enabled: bool, node: FwCfgNode | None, answers: bool | None, agrees: bool) -> None:
    """A witness that says otherwise is noticed; one that could not be heard is not held against the others."""
    evidence = FwCfgEvidence(dma_enabled=enabled, node=node, register_answers=answers)
    assert evidence.agrees is agrees


def test_window_with_and_without_the_register() -> None:
    """The DMA address register is the last eight bytes of a window of 0x18."""
    assert FULL.holds_dma_register
    assert not SHORT.holds_dma_register


@pytest.mark.parametrize("tree", [b"", b"garbage" * 20, b"\xd0\x0d\xfe\xed\x00\x00\x10\x00" + bytes(60)])
def test_what_is_no_device_tree(tree: bytes) -> None:
    """Garbage and a truncated tree are errors, not a crash."""
    pytest.importorskip("libfdt", reason="python3-libfdt is not installed")
    with pytest.raises(HypervisorError, match="device tree"):
        find_node(tree)


def test_warnings_that_are_errors_end_no_interpreter() -> None:
    """The bindings are imported, and leave, whatever the user has warnings be."""
    pytest.importorskip("libfdt", reason="python3-libfdt is not installed")
    program = (
        "from orchestrator.errors import HypervisorError\n"
        "from orchestrator.hypervisor.fw_cfg import find_node\n"
        "try: find_node(b'garbage' * 20)\nexcept HypervisorError: print('no tree')\n"
    )
    environ = os.environ | {"PYTHONWARNINGS": "error::DeprecationWarning"}
    said = subprocess.run([sys.executable, "-c", program], env=environ, check=False, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "no tree\n"), said.stderr
