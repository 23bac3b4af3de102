"""The ssh program's command line."""

from __future__ import annotations

from pathlib import Path

from orchestrator.vm.note import VmNote
from orchestrator.vm.ssh import command


def test_a_folder_of_any_name(tmp_path: Path) -> None:
    """Ssh's options are parted by spaces, and have tokens that begin with %."""
    note = VmNote(
        digest="d", specification="{}", folder=str(tmp_path / 'my "vms" 5%'), files="disk.qcow2", image="/i",
        arch="aarch64", created="2026-11-27", number="5e",
    )  # fmt: skip
    words = command(note, "127.0.0.1", 22, None, ("date",))
    assert f'UserKnownHostsFile="{tmp_path}/my \\"vms\\" 5%%/known_hosts"' in words
    assert words[-2:] == ["127.0.0.1", "date"]
