"""guestlaunch top: one moment of the daemon as a picture that fits 80 columns; the daemon here is the real server."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table

from orchestrator.cli import top
from orchestrator.cli.main import invoke
from orchestrator.errors import NotFoundError
from orchestrator.records import store
from orchestrator.records.store_rows import LaunchRow
from orchestrator.settings import load
from orchestrator.timeline.phases import SEQUENCE, Start
from tests.simulated_launches import mixture


def moment(*phases: str) -> dict[str, Any]:
    """Return a daemon's answer with a launch in each of the phases."""
    launches = [
        {
            "launch_id": f"gl-0123456789a{number:x}", "profile": "x86_64-seabios", "accel": "tcg", "phase": phase,
            "elapsed_s": 123.4, "client_pid": 4_194_304,
        }
        for number, phase in enumerate(phases)
    ]  # fmt: skip
    return {"version": "0.1.0", "pid": 4711, "outcomes": {"success": 3, "failure": 1}, "launches": launches}


def drawn(status: dict[str, Any], ended: list[LaunchRow]) -> str:
    """Return the picture as an 80-column terminal shows it."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    console.print(top.picture(status, ended))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("phase", SEQUENCE[Start.COLD])
def test_a_running_launch_is_shown_whole(phase: str) -> None:
    """Id, profile, phase, time and client are never cut, for the widest values there are."""
    text = drawn(moment(str(phase)), [])
    assert "…" not in text
    for part in ("gl-0123456789a0", "x86_64-seabios", "tcg", str(phase), "123.4 s", "4194304"):
        assert part in text


def test_the_bar_grows_with_the_phase() -> None:
    """From nothing at the first phase to the whole bar at the last, a step for each."""
    places = []
    for phase in SEQUENCE[Start.COLD]:
        picture = top.picture(moment(str(phase)), [])
        assert isinstance(picture, Group)
        running = picture.renderables[1]
        assert isinstance(running, Table)
        (bar,) = [cell for column in running.columns for cell in column.cells if isinstance(cell, ProgressBar)]
        places.append(bar.completed / (bar.total or 0))
    assert places == sorted(set(places))
    assert (places[0], places[-1]) == (0, 1)


def test_the_latest_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest from the store, whole; none when there is no store yet."""
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert top.latest(load()) == []
    lines = mixture(count=40)
    store.rebuild(tmp_path, lines)
    ended = top.latest(load())
    assert [row["launch_id"] for row in ended] == [line["launch_id"] for line in lines[::-1]][: len(ended)]
    text = drawn(moment(), ended)
    assert "…" not in text
    assert all(row["launch_id"] in text for row in ended)
    assert "3 success" in text
    assert "running: 0" in text


def test_without_a_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody to ask is one error that says what to start."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("GUESTLAUNCH_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(NotFoundError, match="start guestlaunchd"):
        invoke(["top"])
