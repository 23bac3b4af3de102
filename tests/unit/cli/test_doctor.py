"""guestlaunch doctor: what it forgets before it looks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli import doctor
from orchestrator.cli.main import cli
from orchestrator.settings import Settings
from orchestrator.workload.doctor import Finding, Severity


@pytest.mark.parametrize("asked", [False, True])
def test_probe_finds_out_anew(own_state: Path, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """With --probe, what was found out of KVM earlier is gone by the time that the host is looked at."""
    own_state.mkdir(mode=0o700)
    verdict = own_state / "kvm-verdict.json"
    verdict.write_text("{}")
    there: list[bool] = []

    def examine(settings: Settings, _environ: Mapping[str, str]) -> list[Any]:
        there.append((settings.state_dir / verdict.name).exists())
        return [Finding(topic="x", verdict=Severity.OK, detail="")]

    monkeypatch.setattr(doctor, "examine", examine)
    assert CliRunner().invoke(cli, ["doctor", *(["--probe"] if asked else [])]).exit_code == 0
    assert there == [not asked]
