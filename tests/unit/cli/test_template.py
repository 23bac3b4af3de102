"""guestlaunch template: what cannot be read does not look as if there were none."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.cli import session, template
from orchestrator.cli.main import main
from orchestrator.settings import Settings
from orchestrator.workload import tools


@pytest.mark.parametrize(
    "words", [("list",), ("list", "--json"), ("verify",), ("prune", "--most-mib", "0"), ("remove", "--stale")]
)
def test_a_folder_that_cannot_be_read(
    own_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    """One line names it, and the status says that it failed."""
    own_state.write_text("no folder")
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "template", *words])
    assert main() == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", f"guestlaunch: cannot use: {own_state}/templates: Not a directory\n")


def test_prune_removes_what_one_that_was_killed_left(
    own_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was out of its place already, where no list shows it, and takes hundreds of megabytes."""
    left = own_state / "templates/.building-gone-0123abcd"
    left.mkdir(parents=True)
    (left / "ram").write_bytes(b"memory")
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "template", "prune", "--unused-days", "30"])
    assert main() == 0
    assert not left.exists()
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("own_state")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_build_that_is_ended_has_not_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Who typed Ctrl-C hears no reason, and the status is the signal's."""

    @contextlib.contextmanager
    def opened(_settings: Settings) -> Iterator[SimpleNamespace]:
        yield SimpleNamespace(environment=SimpleNamespace(variables={}), finished=lambda _seconds: [])

    monkeypatch.setattr(template, "_require_eligible", lambda _: None)
    monkeypatch.setattr(session, "opened", opened)
    monkeypatch.setattr(tools, "run_own", lambda *_, **__: 128 + number)
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "template", "build"])
    assert main() == 128 + number
    assert capsys.readouterr() == ("", "")
