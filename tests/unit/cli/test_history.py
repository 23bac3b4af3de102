"""guestlaunch history: the recorded launches as a table of 80 columns and as JSON, chosen by the same filters."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.history import table
from orchestrator.cli.main import invoke
from orchestrator.errors import NotFoundError
from orchestrator.records import store
from orchestrator.records.filters import INSTRUMENT_MARK, Filters
from orchestrator.timeline.phases import Phase, Start
from tests.simulated_launches import BARE, EMULATED, INSTRUCTIONS, VIRTUALISED, event, mixture


@pytest.fixture(autouse=True)
def state(own_state: Path) -> Path:
    """A store of 120 simulated launches, and no settings of the user's."""
    store.rebuild(own_state, mixture(count=120))
    return own_state


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """Return the launches that history gives as JSON."""
    assert invoke(["history", "--json", *arguments]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--profile", "x86_64-seabios"], "profile", "x86_64-seabios"),
        (["--accel", "kvm"], "accel", "kvm"),
        (["--start", "warm"], "start", "warm"),
        (["--fw-cfg-dma", "off"], "fw_cfg_dma", False),
        (["--outcome", "failure"], "outcome", "failure"),
    ],
)
def test_filters(arguments: list[str], key: str, value: object, capsys: pytest.CaptureFixture[str]) -> None:
    """Each filter gives exactly the launches that have what it asks for."""
    expected = [line["launch_id"] for line in mixture(count=120) if line[key] == value][::-1]
    assert 0 < len(expected) < 120
    assert [row["launch_id"] for row in listed(capsys, "--limit", "1000", *arguments)] == expected


def test_times_are_filters_too(capsys: pytest.CaptureFixture[str]) -> None:
    """From a moment to a moment; an age counts back from now."""
    lines = mixture(count=120)
    since, until = (dt.datetime.fromtimestamp(lines[i]["wall_start_ns"] // 10**9, dt.UTC).isoformat() for i in (20, 50))
    found = listed(capsys, "--limit", "1000", "--since", since, "--until", until)
    assert [row["launch_id"] for row in found] == [line["launch_id"] for line in lines[20:51]][::-1]
    assert listed(capsys, "--since", "2d") == []
    assert len(listed(capsys, "--since", "2000w", "--limit", "7")) == 7


def test_the_table_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """No line is wider than 80 columns, whatever the launches were."""
    assert invoke(["history", "--limit", "1000"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 121
    assert max(map(len, lines)) <= 80
    head = lines[0].split()
    assert head == ["when", "launch", "profile", "accel", "start", "DMA", "launch", "transfer"]


def test_the_widest_lines_fit(state: Path) -> None:
    """A failure in the phase with the longest name, on the profile with the longest name, of another year."""
    worst = event(1, profile="x86_64-seabios", start=Start.STANDBY, failed_in=Phase.GUESTFSD)
    worst |= {"launch_id": "gl-0123456789ab", "error_phase": "firmware_handoff"}
    store.rebuild(state, [worst, event(2, profile="x86_64-seabios", start=Start.STANDBY)])
    with store.open_store(state) as opened:
        rows = opened.rows(Filters())
    for year in (2025, 2031):
        lines = list(table(rows, now=dt.datetime(year, 7, 1, tzinfo=dt.UTC)))
        assert max(map(len, lines)) <= 80
        assert "gl-0123456789ab" in lines[2]
        assert "failed in" in lines[2]
        assert ("2025" in lines[2]) == (year != 2025)


def test_a_modelled_trap_cost_is_marked(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A launch slowed down by our instrument says so, here and when it is drawn again; JSON has it as a field."""
    line = event(5) | {"launch_id": "modelled", "extra_args": ["-plugin", f"/x/{INSTRUMENT_MARK}.so"]}
    store.rebuild(state, [event(4), line])
    assert {row["launch_id"]: row["modelled"] for row in listed(capsys)} == {"modelled": True, "simulated-4": False}
    assert invoke(["history"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [" tcg* " in text for text in shown[1:3]] == [True, False]
    assert "MODELLED" in shown[-1]
    assert invoke(["timeline", "modelled"]) == 0
    assert "MODELLED trap cost" in capsys.readouterr().out.splitlines()[0]


def test_what_is_no_hardware_is_marked(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each kind of host has its sign beside the accelerator, explained below; one can be asked for by itself."""
    made = (BARE, VIRTUALISED, EMULATED, INSTRUCTIONS)
    store.rebuild(state, [event(number, accel="kvm", provenance=one) for number, one in enumerate(made)])
    assert [row["made_on"] for row in listed(capsys)] == [one.label for one in made[::-1]]
    assert invoke(["history"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in shown[1:5]] == ["kvm/i", "kvm/e", "kvm/v", "kvm"]
    assert [line.partition(" ")[0] for line in shown[5:]] == ["/v", "/e", "/i"]
    assert max(map(len, shown)) <= 80
    assert invoke(["history", "--made-on", "emulated-instructions", "--json"]) == 0
    assert [row["launch_id"] for row in json.loads(capsys.readouterr().out)] == ["simulated-3"]
    assert invoke(["timeline", "simulated-3"]) == 0
    assert "kvm (emulated Arm host, instruction clock)" in capsys.readouterr().out


def test_nothing_that_fits(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty selection is said in words, and an empty list in JSON."""
    assert invoke(["history", "--until", "2001-01-01"]) == 0
    assert capsys.readouterr().out == "no launches that fit\n"
    assert listed(capsys, "--until", "2001-01-01") == []


def test_rebuild_from_the_log(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The store is made anew from the log and the one before it; broken lines are counted."""
    with pytest.raises(NotFoundError, match="no log"):
        invoke(["history", "--rebuild"])
    lines = [json.dumps(line) for line in mixture(seed=5, count=30)]
    (state / "log").mkdir()
    (state / "log" / "events.jsonl.1").write_text("\n".join(lines[:20]) + "\n")
    (state / "log" / "events.jsonl").write_text("\n".join([*lines[20:], "half"]) + "\n")
    assert invoke(["history", "--rebuild"]) == 0
    assert capsys.readouterr().out == "30 launches, 1 broken lines left out\n"
    assert {row["launch_id"] for row in listed(capsys)} == {json.loads(line)["launch_id"] for line in lines}
