"""What questions about 100,000 launches cost: time and memory of history and report. Prints figures; judges nothing.

Run with `tools/test -m performance -s tests/performance/test_store.py` on a machine that does nothing else. The
launches are SIMULATED; the commands are the real ones, each in a process of its own, and the first of each is left
out: it bundles the chart library and fills the disk cache.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.records import store
from tests.conftest import TOP
from tests.simulated_launches import Line, mixture

LAUNCHES = int(os.environ.get("LAUNCHES", "100000"))
RUNS = int(os.environ.get("RUNS", "5"))
DAYS = 30
_DAY_NS = 86_400 * 10**9


def launches(count: int) -> Iterator[Line]:
    """Yield simulated launches spread over the last days, each with a console tail as real ones have."""
    kinds = mixture(seed=7, count=2_000)
    step_ns, now_ns = DAYS * _DAY_NS // count, time.time_ns()
    tail = [f"[    {number}.123456] simulated console, a line of the usual length" for number in range(10)]
    for number in range(count):
        fresh = {"launch_id": f"gl-{number:012x}", "wall_start_ns": now_ns - (count - number) * step_ns}
        yield kinds[number % len(kinds)] | fresh | {"console_tail": tail}


def measured(*arguments: str | Path) -> tuple[float, float, float]:
    """Run guestlaunch; return its wall time and processor time in s, and its largest memory in MiB."""
    command = [str(TOP / ".venv" / "bin" / "guestlaunch"), *map(str, arguments)]
    began = time.perf_counter()
    pid = os.posix_spawn(
        command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(pid, 0)
    wall_s = time.perf_counter() - began
    assert os.waitstatus_to_exitcode(status) == 0, command
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


@pytest.mark.timeout(1800)
def test_questions_about_many_launches(tmp_path: Path) -> None:
    """The last day and everything, from the store and from the log."""
    log = tmp_path / "events.jsonl"
    with log.open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in launches(LAUNCHES))
    began = time.perf_counter()
    assert store.rebuild(tmp_path, launches(LAUNCHES)) == LAUNCHES
    made_s, sizes = (
        time.perf_counter() - began,
        [(tmp_path / name).stat().st_size for name in (store.FILE_NAME, log.name)],
    )
    lines = [f"{LAUNCHES:,} SIMULATED launches over {DAYS} days; medians of {RUNS} runs"]
    lines.append(f"  store {sizes[0] / 1e6:.0f} MB, made in {made_s:.1f} s; log {sizes[1] / 1e6:.0f} MB")
    here, page = ("--state-dir", tmp_path), ("--html", tmp_path / "page.html")
    for name, arguments in (
        ("history, last day", ("history", *here, "--since", "1d")),
        ("report, last day", ("report", *here, "--since", "1d")),
        ("report --html, last day", ("report", *here, "--since", "1d", *page)),
        ("history", ("history", *here)),
        ("report", ("report", *here)),
        ("report --html", ("report", *here, *page)),
        ("report --html of the log", ("report", *here, log, *page)),
    ):
        runs = [measured(*arguments) for _ in range(RUNS + 1)][1:]
        wall_s, busy_s, mib = (statistics.median(values) for values in zip(*runs, strict=True))
        lines.append(f"  {name:26} {wall_s:6.2f} s wall, {busy_s:6.2f} s processor, {mib:5.0f} MiB")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
