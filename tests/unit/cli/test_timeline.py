"""guestlaunch timeline: a recorded launch drawn again, whole, in 80 columns on a terminal and as lines elsewhere."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from orchestrator.cli import render
from orchestrator.cli.main import invoke
from orchestrator.errors import NotFoundError
from orchestrator.records import store
from orchestrator.records.record import LaunchEvent
from orchestrator.timeline.durations import milliseconds
from orchestrator.timeline.phases import SEQUENCE, Phase, Start
from tests import simulated_launches


@pytest.fixture(autouse=True)
def state(own_state: Path) -> Path:
    """A store of simulated launches, and no settings of the user's."""
    store.rebuild(own_state, [event(1), event(2, dma=False), event(3, failed_in=Phase.KERNEL)])
    return own_state


def event(seed: int, **options: Any) -> LaunchEvent:  # noqa: ANN401 - as in simulated_launches
    """Return the canonical line of a simulated launch."""
    return cast("LaunchEvent", simulated_launches.event(seed, **options))


def terminal() -> Console:
    """Return a terminal of 80 columns that remembers what it shows."""
    return Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)


def shown(console: Console) -> list[str]:
    """Return the lines on a terminal."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_last_and_by_id(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest by default, any by its id or the beginning of it."""
    assert invoke(["timeline", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == event(3, failed_in=Phase.KERNEL)
    assert invoke(["timeline", "simulated-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == event(1)
    with pytest.raises(NotFoundError, match="several"):
        invoke(["timeline", "simulated-"])
    with pytest.raises(NotFoundError, match="guestlaunch history"):
        invoke(["timeline", "gl-none"])


def test_lines_for_other_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """Not on a terminal: a headline, a line for each phase, the total."""
    assert invoke(["timeline", "simulated-1"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("simulated-1: aarch64-uefi, tcg, DMA on, success, launched in ")
    assert [line.split()[0] for line in lines] == [*map(str, SEQUENCE[Start.COLD]), "total"]


def test_a_launch_that_failed(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said where, and why."""
    failed = event(3, failed_in=Phase.KERNEL)
    assert invoke(["timeline", "simulated-3"]) == 0
    head, why, *_ = capsys.readouterr().out.splitlines()
    assert head.endswith("failure, ended in kernel")
    assert why == f"error: {failed['error']}"
    console = terminal()
    render.show_timeline(failed, console)
    assert str(failed["error"]) in " ".join(shown(console))


def test_against_another(capsys: pytest.CaptureFixture[str]) -> None:
    """Two launches beside each other, with the ratio of each phase."""
    assert invoke(["timeline", "simulated-1", "--against", "simulated-2"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    phases = [simulated_launches.event(n, dma=n == 1)["phases"] for n in (1, 2)]
    on, off = (next(p["duration_ns"] for p in one if p["name"] == "fw_cfg_kernel") for one in phases)
    assert lines["fw_cfg_kernel"][-1] == f"{off / on:.1f}x"


@pytest.mark.parametrize("number", range(9))
def test_a_terminal_shows_every_name_and_time_whole(number: int) -> None:
    """In 80 columns nothing but a note is ever cut, for each kind of launch."""
    line = cast("LaunchEvent", simulated_launches.mixture()[number])
    console = terminal()
    render.show_timeline(line, console)
    lines = shown(console)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for phase in line["phases"]:
        if phase["outcome"] != "not_reached":
            assert phase["name"] in text
            assert milliseconds(phase["duration_ns"]) in text
    if line["transfer_ns"]:
        assert "33.0 MB, " in text
        assert "MB/s" in text


def test_a_comparison_fits_a_terminal() -> None:
    """So do two launches side by side."""
    console = terminal()
    render.show_comparison(event(1), event(2, dma=False), ("gl-0123456789", "gl-ba9876543210"[:12]), console)
    lines = shown(console)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert any(line.strip().startswith("firmware_handoff") for line in lines)


def test_bars_are_to_scale() -> None:
    """A bar of half the length is half the cells; what took any time at all is seen."""
    assert render.bar(1.0, 20) == "█" * 20
    assert render.bar(0.5, 20) == "█" * 10
    assert render.bar(1e-9, 20) == "▏"
    assert render.bar(0.0, 20) == ""
    assert render.bar(7.0, 20) == "█" * 20


def test_rows_are_a_table_on_a_terminal_and_lines_elsewhere() -> None:
    """A head only where somebody looks at it; what is listed is never taken for markup."""
    rows = [("one", "running"), ("a-longer-one", "[red]off")]
    for terminal, expected in (
        (True, ["name          state", "───", "one           running", "a-longer-one  [red]off"]),
        (False, ["one          running", "a-longer-one [red]off"]),
    ):
        console = Console(file=io.StringIO(), force_terminal=terminal, no_color=True, width=80)
        render.show_rows(("name", "state"), rows, console)
        assert isinstance(console.file, io.StringIO)
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in console.file.getvalue().splitlines()]
        assert [line[:3] if line.startswith("─") else line for line in lines if line] == expected
