"""A benchmark that is ended keeps what it has measured: saved, shown, and marked as not complete."""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.bench import result
from orchestrator.bench.text import not_complete
from orchestrator.cli.bench.options import RunPlan
from orchestrator.cli.bench.session import recorded, show
from orchestrator.errors import GuestlaunchError
from orchestrator.settings import load
from tests.simulated_results import analysis_of

TOP = Path(__file__).resolve().parents[3]
# A benchmark whose sides are shells; the second one waits for ever once round 2 has come.
# A suite that runs under nohup has SIGHUP ignored, and with it all that it starts.
BENCHMARK = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from orchestrator.cli import main
from orchestrator.cli.bench import commands
from orchestrator.cli.bench.options import plan_options
from orchestrator.cli.bench.session import measure, recorded, show
from orchestrator.cli.options import settings_options
from orchestrator.bench import statistics
from orchestrator.bench.recording import Recording
from orchestrator.bench.rounds import Side
statistics.RESAMPLES = 99
end = Recording.end

def impatient(recording, why):
    # As somebody does who repeats the signal while what was measured is being saved.
    os.kill(os.getpid(), getattr(signal, why, signal.SIGURG))
    return end(recording, why)

Recording.end = impatient

@commands.bench.command("shells")
@settings_options
@plan_options
def shells(settings, plan):
    with recorded("launch", settings, plan, None) as (recording, folder):
        sides = [
            Side(name=name, command=(shell, "-c", script), environ=dict(os.environ), facts={{"accel": "tcg"}})
            for name, shell, script in (("quick", {shell!r}, "echo quick"), ("slow", "/bin/sh", {script!r}))
        ]
        measure(recording, sides, plan, settings)
    return show(recording, plan)

sys.exit(main.main())
"""
SLOW = "[ $(ls {folder} | wc -l) -lt 3 ] || { touch {folder}/waiting; exec sleep 60; }; mktemp {folder}/XXXX"


def start(tmp_path: Path, script: str, *options: str) -> subprocess.Popen[str]:
    """Start the benchmark."""
    shell = tmp_path / "shell"
    shell.symlink_to("/bin/sh")
    environ = os.environ | {"GUESTLAUNCH_STATE_DIR": str(tmp_path / "state"), "PYTHONPATH": str(TOP)}
    words = ("bench", "shells", "--runs", "9", "--warm-ups", "1", "--out", str(tmp_path / "out.json"), *options)
    return subprocess.Popen(
        [sys.executable, "-c", BENCHMARK.format(script=script, shell=str(shell)), *words], env=environ, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_was_measured(tmp_path: Path, number: signal.Signals) -> None:
    """Two whole rounds and a begun one are in the file and in the table; the status is the signal's."""
    (tmp_path / "runs").mkdir()
    process = start(tmp_path, SLOW.replace("{folder}", str(tmp_path / "runs")), "--json")
    deadline = time.monotonic() + 120
    while not (tmp_path / "runs" / "waiting").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.send_signal(number)  # somebody impatient, whom BENCHMARK has send it once more later
    out, err = process.communicate(timeout=120)
    assert (process.returncode, "Traceback" in err) == (128 + number, False), err
    kept = result.load(tmp_path / "out.json")
    assert json.loads(out) == kept
    assert (kept["complete"], kept["ended_by"]) == (False, number.name)
    assert [s["side"] for s in kept["samples"] if s["round"] >= 0].count("slow") == 2
    assert f"ended by {number.name}" in not_complete(kept)
    assert analysis_of(kept)["comparisons"]


def test_an_error_in_a_late_round_keeps_what_was_measured(tmp_path: Path) -> None:
    """A side's program goes away: what was measured is shown, and then the error."""
    (tmp_path / "runs").mkdir()
    script = f"mktemp {tmp_path}/runs/XXXX; [ $(ls {tmp_path}/runs | wc -l) -lt 3 ] || rm -f {tmp_path}/shell"
    process = start(tmp_path, script)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "NOT COMPLETE: ended by an error: cannot run a side of the benchmark" in " ".join(out.split())
    assert err.splitlines()[-1].endswith("shell: no such program")
    assert len(result.load(tmp_path / "out.json")["samples"]) >= 5


def test_a_result_that_cannot_be_written_any_more_is_shown(tmp_path: Path) -> None:
    """Something is in its place by then: what was measured is in the table, and then the error."""
    (tmp_path / "runs").mkdir()
    there = f"{{ rm -f {tmp_path}/out.json; mkdir -p {tmp_path}/out.json; }}"
    script = f"mktemp {tmp_path}/runs/XXXX; [ $(ls {tmp_path}/runs | wc -l) -lt 3 ] || {there}"
    out, err = start(tmp_path, script).communicate(timeout=120)
    assert "NOT COMPLETE: ended by an error: cannot write the result" in " ".join(out.split())
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("out.json: Is a directory")


@pytest.mark.parametrize("name", [".", "file/out.json", "file/deep/out.json", "/proc/out.json", "/sys/a/out.json"])
def test_nothing_is_measured_for_a_result_that_has_no_place(tmp_path: Path, name: str) -> None:
    """That is said at once, not after the first round."""
    (tmp_path / "file").write_text("")
    plan = RunPlan(
        runs=1, warm_ups=0, time_budget=None, deadline=1, seed=7, out=tmp_path / name, disk=None, as_json=False
    )  # fmt: skip
    with pytest.raises(GuestlaunchError, match="cannot write the result"), recorded("tools", load(), plan, None):
        pytest.fail("something would have been measured")


def test_a_place_is_left_as_it_was(tmp_path: Path) -> None:
    """Folders are made for a result, not for the question whether it could be written."""
    result.require_place(tmp_path / "a/b/out.json")
    result.require_place(Path(os.devnull))
    assert list(tmp_path.iterdir()) == []


def test_nothing_measured_says_so(tmp_path: Path) -> None:
    """A benchmark that is ended while it warms up leaves no file that looks like a result."""
    process = start(tmp_path, f"touch {tmp_path}/up; exec sleep 60")
    deadline = time.monotonic() + 120
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (143, "")
    assert err.endswith("bench: ended by SIGTERM before anything was measured\n")


def test_one_command_begins_and_goes_on(tmp_path: Path) -> None:
    """What is to go on with a result that is not there begins it; the next time it goes on."""
    path = tmp_path / "tools.json"
    plan = RunPlan(
        runs=1, warm_ups=0, time_budget=None, deadline=1, seed=7, out=None, disk=None, as_json=False
    )  # fmt: skip
    for seed in (7, 8):
        with recorded("tools", load(), replace(plan, seed=seed), None, resume=path) as (recording, _folder):
            recording.left = "its time budget"
        assert result.load(path)["seed"] == 7


def test_nothing_but_failures_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where all was left out the table is empty, and the status says so."""
    plan = RunPlan(
        runs=1, warm_ups=0, time_budget=None, deadline=1, seed=7, out=tmp_path / "r.json", disk=None, as_json=False
    )  # fmt: skip
    with recorded("tools", load(), plan, None) as (recording, _folder):
        recording.leave_out("warm: virt-cat, given", "no operating system was found")
    assert show(recording, plan) == 1
    assert "no operating system was found" in " ".join(capsys.readouterr().out.split())


def test_every_benchmark_is_recorded() -> None:
    """Each bench command that measures does so within `recorded`, which is what keeps its rounds."""
    for name in ("commands", "start"):
        tree = ast.parse((TOP / "orchestrator" / "cli" / "bench" / f"{name}.py").read_text())
        commands = [
            node for node in tree.body
            if isinstance(node, ast.FunctionDef) and any("plan_options" in ast.dump(d) for d in node.decorator_list)
        ]  # fmt: skip
        assert commands
        for command in commands:
            assert "id='recorded'" in ast.dump(command), command.name
