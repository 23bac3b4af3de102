"""guestlaunch install: options become a request, what came of it becomes lines, and a status."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.cli.main import invoke
from orchestrator.domain.model import Arch
from orchestrator.errors import UsageError
from orchestrator.install import run
from orchestrator.install.request import InstallRequest
from orchestrator.records.record import InstallStepRecord, LaunchRecord
from orchestrator.timeline.phases import Kind
from tests.unit.records.test_record import recorded


def step(name: str, verdict: str, **more: Any) -> LaunchRecord:  # noqa: ANN401 - a record's fields
    """Return the record of a step."""
    fetched = 2_000_000 if name == "installer" else 0
    said = InstallStepRecord(
        installation="1", step=name, verdict=verdict, location="x", tree="T", verification="none",
        told_by="a login prompt", boot_entry='Boot0007 "T"', fetched_bytes=fetched, fetch_ns=10**9,
    )  # fmt: skip
    return replace(recorded(), kind=Kind.INSTALL, install=said, **more)


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What the command asks for, and what comes of it."""
    found = SimpleNamespace(request=None, steps=(step("installer", "done"), step("first_boot", "done")))

    def carry_out(request: InstallRequest, *_: object, **__: object) -> run.Installed:
        found.request = request
        return run.Installed(media=None, steps=found.steps)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "carry_out", carry_out)
    return found


def test_options_become_a_request(carried_out: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """Paths are absolute, sizes are bytes."""
    words = (
        "install --location tree --arch aarch64 --disk d.img --size 8G --preseed p --inject a --inject b --timeout 9"
    )
    assert invoke(words.split()) == 0
    request = carried_out.request
    assert (request.location, request.arch, request.size_bytes) == ("tree", Arch.AARCH64, 8 << 30)
    assert request.disks == (Path.cwd() / "d.img",)
    assert request.answers.inject == (Path.cwd() / "a", Path.cwd() / "b")
    assert (request.timeout_s, request.verify, request.network) == (9.0, True, True)
    said = capsys.readouterr().out
    assert said.splitlines()[0].split() == ["fetched", "1.00", "s", "2.0", "MB"]
    assert 'Boot0007 "T", told by a login prompt' in said
    assert f"installed, and boots: {Path.cwd() / 'd.img'} with {Path.cwd() / 'd.img.nvram.fd'}" in said


@pytest.mark.parametrize(
    "words",
    [
        "--disk d",
        "--location x",
        "--kernel k --disk d",
        "--location x --disk d --size 0",
        "--location x --disk d --size 1X",
    ],
)
def test_options_that_cannot_work(words: str) -> None:
    """They are refused as such."""
    with pytest.raises(UsageError):
        invoke(["install", *words.split()])


def test_an_installation_that_failed(carried_out: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    """Its error and the console's tail, and as JSON its records."""
    failed = step("first_boot", "unjudged", outcome="failure", error="the disk does not boot", console_tail=("Shell>",))
    carried_out.steps = (carried_out.steps[0], failed)
    assert invoke(["install", "--location", "x", "--disk", "d"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "guestlaunch: the disk does not boot\n  | Shell>\n")
    assert invoke(["install", "--location", "x", "--disk", "d", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["installed"], [one["install"]["verdict"] for one in found["steps"]]) == (False, ["done", "unjudged"])
