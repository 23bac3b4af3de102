"""Whole tools: which run on which disks, in which order, on files of their own, and the one table that says it."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench import disks, result, tools
from orchestrator.bench.recording import Recording
from orchestrator.bench.rounds import RunEnd, Side
from orchestrator.bench.start_sides import REFERENCE, STANDBY, WARM
from orchestrator.bench.tool_disks import DiskLayout, ToolDisk, make
from orchestrator.bench.tools import TOOLS, MeasuredTool, ToolBench, ToolRun
from orchestrator.bench.tools_analysis import analyse_tools
from orchestrator.domain.model import Arch
from orchestrator.errors import GuestlaunchError
from orchestrator.timeline.phases import Start
from tests import simulated_results
from tests.simulated_results import analysis_of, text_of

pytestmark = pytest.mark.usefixtures("few_resamples")

WRITES = MeasuredTool(name="writes", line=("sh", "-c", 'cat "$0" >>"$1"; echo changed >"$0"', "{disk}"), writes=True)


def ways() -> list[Side]:
    """Return a reference and a side with variables of its own, which are put before the tool's program."""
    environ = dict(os.environ)
    return [
        Side(name=REFERENCE, command=("guestfish",), environ=environ),
        Side(name=WARM, command=("env", "HOW=warm", "guestfish"), launcher=("env", "HOW=warm"), environ=environ),
    ]


def disk(folder: Path, layout: DiskLayout = DiskLayout.LVM, device: str | None = None) -> ToolDisk:
    """Return a disk that is a line of text."""
    path = folder / "disk.img"
    path.write_text("as it was\n")
    return ToolDisk(layout=layout, path=path, device=device, grows=None if device else "/dev/sda1")


def bench(folder: Path) -> ToolBench:
    """Return a benchmark whose result is in a folder."""
    recording = Recording(tools.KIND, folder / "tools.json", seed=1)
    recording.sides((way.name, way.facts) for way in ways())
    return ToolBench(recording=recording, folder=folder, deadline_s=60, preloads={"PRELOADED": "yes"})


def carry_out(where: ToolBench, todo: list[ToolRun]) -> list[str]:
    """Carry steps out; return what was said."""
    said: list[str] = []
    list(
        tools.carry_out(
            where, todo, time_budget_s=None, ready=lambda: None, tell=lambda text, _share: said.append(text)
        )
    )
    return said


def shown_line(tool: MeasuredTool, on: ToolDisk, folder: Path, way: Side, number: int = 0) -> list[str]:
    """Return the command line of a step, as a program that prints its arguments and variables sees it."""
    printing = replace(
        tool, line=("sh", "-c", 'printf "%s\\n" "$HOW" "$PRELOADED" "$GUESTLAUNCH_START" "$@" >&2; exit 3', *tool.line)
    )
    step = ToolRun(number=number, way=way, tool=printing, disk=on)
    return (tools.run(bench(folder), step, 0).error or "").splitlines()


def test_which_tools_fit_which_disks(tmp_path: Path) -> None:
    """Without an operating system there is nothing to inspect, without a partition nothing to expand."""
    data = disk(tmp_path, DiskLayout.FILE_SYSTEM, "/dev/sda")
    system = disk(tmp_path)
    given = replace(system, layout=DiskLayout.GIVEN, grows=None)
    fits = {one.layout: [tool.name for tool, on in tools.fitting(TOOLS, [data, system, given]) if on is one]
            for one in (data, system, given)}  # fmt: skip
    assert fits[DiskLayout.FILE_SYSTEM] == [
        "virt-df", "virt-filesystems", "virt-ls", "virt-cat", "virt-sparsify", "guestmount",
        "virt-df-in-turn", "virt-df-at-once",
    ]  # fmt: skip
    single = [tool.name for tool in TOOLS if not tool.several]
    assert fits[DiskLayout.LVM] == single
    assert fits[DiskLayout.GIVEN] == [name for name in single if name != "virt-resize"]


def test_what_is_mounted_is_told_where_no_system_tells_it(tmp_path: Path) -> None:
    """Else tools inspect; guestmount has to be told that."""
    reference = ways()[0]
    on_data, on_system = disk(tmp_path, DiskLayout.FILE_SYSTEM, "/dev/sda"), disk(tmp_path)
    by_name = {tool.name: tool for tool in TOOLS}
    assert shown_line(by_name["virt-cat"], on_data, tmp_path, reference)[-3:] == ["-m", "/dev/sda", "/etc/hostname"]
    assert shown_line(by_name["virt-cat"], on_system, tmp_path, reference)[-2:] == [
        str(on_system.path),
        "/etc/hostname",
    ]
    assert shown_line(by_name["guestmount"], on_data, tmp_path, reference)[-2:] == ["-m", "/dev/sda"]
    assert shown_line(by_name["guestmount"], on_system, tmp_path, reference)[-1] == "-i"
    resized = shown_line(by_name["virt-resize"], on_system, tmp_path, reference)
    assert resized[-3:-1] == ["/dev/sda1", str(on_system.path)]
    assert resized[-1].endswith("/grown.img")


def test_what_a_run_is_given(tmp_path: Path) -> None:
    """A side's variables; the library only for commands in guests, by launches of ours; what makes clones, untimed."""
    by_name = {tool.name: tool for tool in TOOLS}
    reference, warm = ways()
    warm = replace(warm, start=Start.WARM)
    run_command, on = by_name["run-command"], disk(tmp_path)
    assert shown_line(run_command, on, tmp_path, warm)[:3] == ["warm", "yes", ""]
    assert shown_line(run_command, on, tmp_path, reference)[:3] == ["", "", ""]
    assert shown_line(by_name["virt-df"], on, tmp_path, warm)[:3] == ["warm", "", ""]
    assert shown_line(by_name["virt-df"], on, tmp_path, warm, number=-1)[:3] == ["warm", "", "warm"]


def test_a_tool_that_writes_gets_a_copy(tmp_path: Path) -> None:
    """Each run finds the disk as it was made, and leaves nothing behind."""
    seen, on = tmp_path / "seen", disk(tmp_path)
    tool = replace(WRITES, line=(*WRITES.line, str(seen)))
    where = bench(tmp_path)
    carry_out(where, tools.steps(ways(), [(tool, on)], first=0, runs=2, seed=1))
    assert seen.read_text() == "as it was\n" * 4
    assert on.path.read_text() == "as it was\n"
    assert {path.name for path in tmp_path.iterdir()} == {"disk.img", "seen", "tools.json"}
    found = result.load(tmp_path / "tools.json")
    assert {(s["side"], s["tool"], s["disk"]) for s in found["samples"]} == {
        (REFERENCE, "writes", "lvm"), (WARM, "writes", "lvm"),
    }  # fmt: skip


def test_several_disks_are_as_many_launches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program gets a disk of its own name; in turn one runs at a time, at once all of them do."""
    programs, seen, on = tmp_path / "programs", tmp_path / "seen", disk(tmp_path)
    programs.mkdir()
    (programs / "virt-df").write_text(
        f"#!/bin/sh\necho begins >>{seen}; cat $2 >>{seen}; sleep 0.3; echo ends $2 >>{seen}\n"
    )
    (programs / "virt-df").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    by_name = {tool.name: tool for tool in TOOLS}
    folder = tmp_path / "bench"
    folder.mkdir()
    for name, at_once in ((tools.IN_TURN, False), (tools.AT_ONCE, True)):
        seen.unlink(missing_ok=True)
        step = ToolRun(number=0, way=ways()[0], tool=by_name[name], disk=on)
        assert tools.run(bench(folder), step, 0).error is None
        said = seen.read_text().splitlines()
        assert sorted(line for line in said if line.startswith("ends")) == [f"ends {n}.img" for n in range(tools.DISKS)]
        assert said.count("as it was") == tools.DISKS
        assert (said[:3] == ["begins", "as it was", "ends 0.img"]) is not at_once


def test_of_several_launches_some_may_be_warm(tmp_path: Path) -> None:
    """Only the first find a clone that is ready; one that booted makes the run none of the row's, as ever."""
    script = 'for start in $STARTS; do echo "{\\"start\\": \\"$start\\"}" >>"$TIMELINE"; done'
    tool = MeasuredTool(name="several", line=("sh", "-c", script), several=True)
    errors = []
    for starts, several in (("standby warm", True), ("standby warm", False), ("standby cold", True)):
        launcher = ("env", f"STARTS={starts}", "TIMELINE={timeline}")
        way = replace(ways()[1], name=STANDBY, start=Start.STANDBY, launcher=launcher)
        step = ToolRun(number=0, way=way, tool=replace(tool, several=several), disk=disk(tmp_path))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("orchestrator.bench.rounds.LaunchEvent", dict)
            errors.append(tools.run(bench(tmp_path), step, 0).error)
    assert errors == [None, "the launch was warm, not standby", "the launch was cold, not standby"]


def test_what_is_gained_by_launching_at_once(tmp_path: Path) -> None:
    """A line for each side that did both; nothing of it where they were not run."""
    found = simulated_results.tools(tmp_path / "a.json", runs=6, tasks=(tools.IN_TURN, tools.AT_ONCE))
    gains = analysis_of(found)["gains"]
    assert [(gain["side"], gain["disk"], gain["n"]) for gain in gains] == [
        (name, "lvm", 6) for name in (REFERENCE, "cold, DMA on", WARM, STANDBY)
    ]
    assert all(gain["ratio"] == pytest.approx(2, rel=0.1) for gain in gains)
    assert gains[0]["per_minute"] == pytest.approx(60 * tools.DISKS / 12.5, rel=0.1)
    text = text_of(found)
    assert "4 disks, a virt-df each, all at once: times faster than in turn, disks a minute" in text
    assert re.search(r"\n  standby, lvm: [12]\.\d+ \([12]\.\d+–2\.\d+\), \d{3} a minute, n = 6\n", text)
    assert analysis_of(simulated_results.tools(tmp_path / "b.json", runs=1))["gains"] == []
    at_once = [one for one in found["samples"] if (one["tool"], one["side"]) == (tools.AT_ONCE, WARM)]
    found["samples"].remove(at_once[-1])
    assert [gain["n"] for gain in analyse_tools(found)["gains"]] == [6, 6, 5, 6]


def test_the_sides_of_a_tool_follow_each_other(tmp_path: Path) -> None:
    """So that they can be compared as pairs; the order is the seed's alone."""
    pairs = [(tool, disk(tmp_path)) for tool in TOOLS]
    found = tools.steps(ways(), pairs, first=-1, runs=2, seed=1)
    assert [step.title for step in found] == [s.title for s in tools.steps(ways(), pairs, first=-1, runs=2, seed=1)]
    each = 2 * len(TOOLS)
    assert [step.number for step in found] == [-1] * each + [0] * each + [1] * each
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert first.task == second.task
        assert {first.way.name, second.way.name} == {REFERENCE, WARM}


def test_an_interrupted_one_goes_on_with_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is kept and not done again."""
    tool = MeasuredTool(name="true", line=("true",), on_any=True)
    wanted = tools.steps(ways(), [(tool, disk(tmp_path))], first=0, runs=3, seed=1)
    done: list[str] = []
    real = tools.run

    def run(where: ToolBench, step: ToolRun, position: int) -> Any:  # noqa: ANN401 - as it is called
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(step.title)
        return real(where, step, position)

    where = bench(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(tools, "run", run)
        with pytest.raises(KeyboardInterrupt):
            carry_out(where, wanted)
    again = bench(tmp_path)
    again.recording.go_on(result.load(tmp_path / "tools.json"))
    todo = tools.left(wanted, again.recording.result)
    assert todo == wanted[4:]
    carry_out(again, todo)
    assert tools.left(wanted, again.recording.result) == []


def test_a_daemon_that_is_new_is_warmed_up_again(tmp_path: Path) -> None:
    """It has no clone of a kind that it was not asked for; where nothing is left, there is nothing to warm up."""
    standby = replace(ways()[1], name=STANDBY, start=Start.STANDBY)
    tool = MeasuredTool(name="true", line=("true",), on_any=True)
    wanted = tools.steps([standby], [(tool, disk(tmp_path))], first=-1, runs=2, seed=1)
    where = bench(tmp_path)
    warmed, first, second = (
        {"side": STANDBY, "round": number, "tool": "true", "disk": "lvm", "ok": True} for number in (-1, 0, 1)
    )
    found: Any = where.recording.result
    found["samples"] = [warmed, first]
    assert [step.number for step in tools.left(wanted, found)] == [-1, 1]
    found["samples"] = [warmed, first, second]
    assert tools.left(wanted, found) == []


def test_what_fails_in_its_warm_up_is_left_out(tmp_path: Path) -> None:
    """With libguestfs's reason, on the sides where it fails; it is no failed run."""
    fails = MeasuredTool(name="fails", line=("sh", "-c", 'echo "fails: error: no such guest" >&2; test "$HOW"'))
    where = bench(tmp_path)
    said = carry_out(where, tools.steps(ways(), [(fails, disk(tmp_path))], first=-1, runs=2, seed=1))
    where.recording.finish()
    found = where.recording.result
    assert found.get("left_out") == [{"side": f"{REFERENCE}: fails, lvm", "reason": "fails: error: no such guest"}]
    assert "left out: reference: fails, lvm: fails: error: no such guest" in said
    assert [s["side"] for s in found["samples"] if s["round"] >= 0] == [WARM, WARM]
    assert analysis_of(found)["failed_runs"] == 0
    assert "Left out: reference: fails, lvm: fails: error: no such guest" in text_of(found)


def test_guestmount_is_timed_until_it_is_ready() -> None:
    """All others to their exit."""
    assert {tool.name for tool in TOOLS if tool.ends is RunEnd.ANSWER} == {"guestmount"}


@pytest.mark.parametrize("runs", [1, 8])
def test_one_table_of_80_columns(runs: int, tmp_path: Path) -> None:
    """Seconds, and below them ratios to the reference, which pairs of runs give; too few have no intervals."""
    found = simulated_results.tools(tmp_path / "a.json", runs=runs)
    rows = analysis_of(found)["tools"]
    assert [(row["tool"], row["disk"]) for row in rows] == [("virt-df", "lvm"), ("virt-filesystems", "file-system")]
    times: Any = rows[0]["times"]
    assert times[REFERENCE]["ratio"] == 1
    assert times[WARM]["ratio"] == pytest.approx(0.06, rel=0.1)
    assert (times[WARM]["ratio_interval"] is None) is (runs == 1)
    assert times[WARM]["n"] == runs
    lines = text_of(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    assert any(line.startswith("filesystems") for line in lines)
    assert any(line.startswith(" file-system ") and " .06" in line for line in lines)


def appliance_root(tmp_path: Path) -> Path:
    """Return an appliance's root with what a shell is made of."""
    root, content = tmp_path / "root", tmp_path / "content"
    libraries = "usr/lib/aarch64-linux-gnu"
    for name in ("usr/bin/dash", f"{libraries}/libc.so.6", f"{libraries}/ld-linux-aarch64.so.1"):
        (content / name).parent.mkdir(parents=True, exist_ok=True)
        (content / name).write_text(f"{name}\n")
    disks.truncate(root, 16)
    disks.fill(root, content, name="5d3b5e32-9c2c-4a07-9f0b-0a6f5b2f8d53", mib=16)
    return root


def test_a_disk_with_lvm_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest that makes it is not given an overlay of it, which would be all that has changed."""
    root, programs = appliance_root(tmp_path), tmp_path / "programs"
    programs.mkdir()
    (programs / "guestfish").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\ncat >{tmp_path}/script\n')
    (programs / "guestfish").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    made = make(DiskLayout.LVM, tmp_path, arch=Arch.AARCH64, root=root, environ=dict(os.environ))
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:3] == ["--format=raw", "-a", str(made.path)]
    assert "--ro" not in arguments
    assert "pvcreate /dev/sda1\n" in (tmp_path / "script").read_text()
    assert (made.grows, made.device) == ("/dev/sda1", None)


def test_disks_that_take_no_guest(tmp_path: Path) -> None:
    """A whole file system that is no operating system, and twelve in partitions, the first a Debian with a shell."""
    root = appliance_root(tmp_path)
    made = {
        layout: make(layout, tmp_path, arch=Arch.AARCH64, root=root, environ={})
        for layout in (DiskLayout.FILE_SYSTEM, DiskLayout.PARTITIONS)
    }
    assert made[DiskLayout.FILE_SYSTEM].device == "/dev/sda"
    assert made[DiskLayout.PARTITIONS].grows == "/dev/sda12"
    sbin = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def said(*command: str) -> str:
        return subprocess.run(command, env=sbin, check=True, capture_output=True, text=True).stdout

    whole, parts = (str(made[layout].path) for layout in (DiskLayout.FILE_SYSTEM, DiskLayout.PARTITIONS))
    assert said("debugfs", "-R", "cat /etc/hostname", whole) == "bench\n"
    assert said("debugfs", "-R", "cat /etc/os-release", whole) == ""
    table = [line.split() for line in said("sfdisk", "-d", parts).splitlines() if line.startswith(parts)]
    assert len(table) == 12
    starts = [int(line[3].rstrip(",")) * 512 for line in table]
    assert said("debugfs", "-R", "cat /bin/sh", f"{parts}?offset={starts[0]}") == "usr/bin/dash\n"
    assert said("debugfs", "-R", "cat /etc/hostname", f"{parts}?offset={starts[-1]}") == "bench\n"
    with pytest.raises(GuestlaunchError, match="it has no /usr/bin/dash"):
        make(DiskLayout.PARTITIONS, tmp_path, arch=Arch.AARCH64, root=Path(whole), environ={})
