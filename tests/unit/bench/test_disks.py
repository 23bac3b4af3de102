"""Disks for benchmarks: a program that makes one fails with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.bench import disks
from orchestrator.errors import WorkloadError


@pytest.mark.parametrize(("does", "why"), [("exec sleep 60", "not done after 0.2 s"), ("exit 3", "exit status 3")])
def test_a_program_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, why: str) -> None:
    """One that does not come to an end is told as one that fails."""
    (tmp_path / "mke2fs").write_text(f"#!/bin/sh\n{does}\n")
    (tmp_path / "mke2fs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + ":/usr/bin:/bin")
    if "sleep" in does:  # a host that is busy takes longer than that for the other
        monkeypatch.setattr(disks, "_PROGRAM_S", 0.2)
    with pytest.raises(WorkloadError, match=f"cannot make a disk for the benchmark: mke2fs: {why}"):
        disks.file_system(tmp_path / "disk.img")
