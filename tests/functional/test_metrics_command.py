"""`guestlaunch metrics` as an operator runs it: printed, from a timer into a text file, and its mistakes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.hosts import program
from tests.running import Guestlaunch
from tests.simulated_launches import event, mixture


def append(log: Path, lines: list[dict[str, Any]]) -> None:
    """Add events to a log."""
    with log.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def launches(text: str) -> float:
    """Return how many launches an exposition counts."""
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return sum(sample.value for sample in families["guestlaunch_launches"].samples)


@pytest.fixture
def log(guestlaunch: Guestlaunch) -> Path:
    """The event log of the settings, with launches of all kinds in it."""
    path = Path(guestlaunch.environ["GUESTLAUNCH_LOG"])
    append(path, mixture(count=20))
    return path


def test_what_is_printed_is_what_prometheus_reads(guestlaunch: Guestlaunch, log: Path) -> None:
    """Without options the metrics of the settings' own log are printed, and promtool has nothing to say of them."""
    text = guestlaunch("metrics").ok().stdout
    assert launches(text) == 20
    checked = subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_timer_writes_totals_that_grow(guestlaunch: Guestlaunch, log: Path, tmp_path: Path) -> None:
    """Each run writes the text file anew with everything so far; rotation of the log loses nothing."""
    target = tmp_path / "guestlaunch.prom"
    assert guestlaunch("metrics", "--textfile", target).ok().stdout == ""
    assert launches(target.read_text()) == 20
    log.replace(f"{log}.1")
    append(log, [event(1)])
    guestlaunch("metrics", "--textfile", target).ok()
    assert launches(target.read_text()) == 21
    guestlaunch("metrics", "--textfile", target).ok()
    assert launches(target.read_text()) == 21
    assert [path.name for path in tmp_path.iterdir()] == ["guestlaunch.prom"]


def test_lines_that_cannot_be_understood_are_named(guestlaunch: Guestlaunch, log: Path) -> None:
    """Broken lines cost nothing but a line on stderr, once."""
    with log.open("a") as file:
        file.write('{"event": "launch_finished", "schema_ver\n')
    result = guestlaunch("metrics").ok()
    assert launches(result.stdout) == 20
    assert result.stderr == f"guestlaunch: {log}: 1 broken line of launches: not counted\n"
    assert guestlaunch("metrics").ok().stderr == ""


def test_mistakes_are_one_line(guestlaunch: Guestlaunch, log: Path, tmp_path: Path) -> None:
    """A name that node_exporter passes over, a log on stderr and a damaged state are each told in a line."""
    assert "*.prom" in guestlaunch("metrics", "--textfile", tmp_path / "x.txt").error_line
    assert "name a file" in guestlaunch("metrics", "--log", "-").error_line
    (tmp_path / "totals").write_text("{")
    line = guestlaunch("metrics", "--totals", tmp_path / "totals").error_line
    assert "content is damaged" in line
    assert "remove it" in line
