"""JUnit files: what is the kernel's fault is a failure, what is not an error; a guest may print anything."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.errors import CapabilityError
from orchestrator.kernel.junit import SuiteRun, check_junit, write_junit
from orchestrator.kernel.tap import TestReader
from orchestrator.records.record import FwCfg, KernelRunRecord, LaunchRecord
from orchestrator.timeline.phases import Kind, Phase, Start
from orchestrator.timeline.recorder import Recorder


def ran(verdict: str = "command", exit_status: int = 0, error: str | None = None) -> LaunchRecord:
    recorder = Recorder(origin_ns=10**9, kind=Kind.KERNEL)
    recorder.begin(Phase.STAGE, "test", 2 * 10**9)
    recorder.finish(5 * 10**9)
    return LaunchRecord(
        launch_id="gl-1", start=Start.COLD, profile="aarch64-uefi", arch="aarch64", accel="tcg", accel_reason="",
        fw_cfg=FwCfg(requested=True), outcome="success", tiles=recorder.tiles(), wall_start_ns=0, connection="embed",
        error=error, kind=Kind.KERNEL, console_tail=("\\x1b said <&>",),
        kernel_run=KernelRunRecord(
            verdict=verdict, exit_status=exit_status, kernel="/Image", form="Image", started_as="itself",
            version="6.12", cmdline="", command=("sh", "-c", "x"), metrics={"boot": 1.5},
        ),
    )  # fmt: skip


def written(tmp_path: Path, *runs: SuiteRun) -> ET.Element:
    path = tmp_path / "junit.xml"
    write_junit(path, runs)
    return ET.fromstring(path.read_bytes())


@pytest.mark.parametrize(
    ("verdict", "status", "kind"),
    [
        ("command", 0, None),
        ("command", 3, "failure"),
        ("panic", 121, "failure"),
        ("refused", 122, "failure"),
        ("no_user_space", 123, "failure"),
        ("unjudged", 125, "error"),
        ("hypervisor", 128, "error"),
        ("interrupted", 130, "error"),
    ],
)
def test_whose_fault_it_is(tmp_path: Path, verdict: str, status: int, kind: str | None) -> None:
    """A run is a case of its own, which says what came of it."""
    error = None if verdict == "command" else "said: why"
    (suite,) = written(tmp_path, SuiteRun(name="a", record=ran(verdict, status, error)))
    case = suite.find("testcase")
    assert case is not None
    assert case.get("name") == "sh -c x"
    found = {one.tag: one.get("message") for one in case}
    assert found == ({} if kind is None else {kind: error or "exit status 3"})
    assert (suite.get("failures"), suite.get("errors")) == (str(int(kind == "failure")), str(int(kind == "error")))


def test_tests_of_the_guest(tmp_path: Path) -> None:
    """Each is a case in its suite's class; phases and metrics are properties."""
    reader = TestReader()
    reader.feed(b'    ok 1 a\n    not ok 2 b <&"\x01\n    ok 3 c # SKIP none\nnot ok 1 list\n')
    reader.finish()
    (suite,) = written(tmp_path, SuiteRun(name="uefi", record=ran(), tests=reader.tests))
    cases = {(case.get("classname"), case.get("name")): [one.tag for one in case] for case in suite.iter("testcase")}
    assert cases == {
        ("uefi", "sh -c x"): [],
        ("uefi.list", "a"): [],
        ("uefi.list", 'b <&"\\x01'): ["failure"],
        ("uefi.list", "c"): ["skipped"],
    }
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("4", "1", "1")
    properties = {one.get("name"): one.get("value") for one in suite.iter("property")}
    assert properties["metric.boot"] == "1.5"
    assert properties["phase.plan_ms"] == "1000.0"


def test_several_runs_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """One suite each; an error names the file."""
    runs = [SuiteRun(name=name, record=replace(ran(), launch_id=name)) for name in "ab"]
    assert [suite.get("name") for suite in written(tmp_path, *runs)] == ["a", "b"]
    with pytest.raises(CapabilityError, match="cannot write the JUnit file"):
        write_junit(tmp_path / "none" / "junit.xml", runs)


def test_what_xml_cannot_hold(tmp_path: Path) -> None:
    """A command's words and a kernel's name may hold anything, too."""
    record = ran()
    assert record.kernel_run is not None
    record = replace(record, kernel_run=replace(record.kernel_run, command=("\x1b[1m", "\udcff"), kernel="/I\x01"))
    (suite,) = written(tmp_path, SuiteRun(name="a", record=record))
    case = suite.find("testcase")
    assert case is not None
    assert case.get("name") == r"\x1b[1m \udcff"


def test_a_file_that_cannot_be_written_later(tmp_path: Path) -> None:
    """It is refused before anything runs."""
    check_junit(tmp_path / "junit.xml")
    for path in (tmp_path, tmp_path / "no" / "junit.xml"):
        with pytest.raises(CapabilityError, match="cannot write the JUnit file"):
            check_junit(path)


def test_device_is_written_to_and_stays(tmp_path: Path) -> None:
    """A pipe, as a shell makes one of >(...), takes the results, and no file takes its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    check_junit(pipe)
    check_junit(Path(os.devnull))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_junit(pipe, [])
    assert b"<testsuites" in os.read(reader, 4096)
    os.close(reader)
    assert pipe.is_fifo()
