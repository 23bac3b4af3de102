"""Formats of firmware images that libvirt can hand on."""

from __future__ import annotations

import sys

import pytest

from orchestrator.hypervisor.pflash import flash_formats


@pytest.mark.parametrize(
    ("version", "formats"), [(9_000_000, ("raw",)), (9_002_000, ("raw", "qcow2")), (11_003_000, ("raw", "qcow2"))]
)
def test_since_libvirt_9_2(monkeypatch: pytest.MonkeyPatch, version: int, formats: tuple[str, ...]) -> None:
    """Debian 12's libvirt knows raw images only."""
    monkeypatch.setattr("orchestrator.hypervisor.binding.library_version", lambda: version)
    assert flash_formats() == formats


def test_without_libvirt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libvirt is missing, raw is what can be had anyway."""
    monkeypatch.setitem(sys.modules, "orchestrator.hypervisor.binding", None)
    assert flash_formats() == ("raw",)
