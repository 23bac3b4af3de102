"""Runs of kernels as a JUnit file, for whatever shows test results: a suite for each run, its tests in it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree as ET

from orchestrator.domain.xml import to_text
from orchestrator.errors import CapabilityError
from orchestrator.files import NOT_IN_XML, write_output
from orchestrator.kernel.tap import TestLine, TestOutcome
from orchestrator.kernel.verdict import Cause
from orchestrator.records.record import KernelRunRecord, LaunchRecord

# The kernel's fault, or that of its tests; what is neither is an error in JUnit's sense.
_FAILURES = frozenset({Cause.COMMAND, Cause.PANIC, Cause.REFUSED, Cause.NO_USER_SPACE, Cause.TIMED_OUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteRun:
    """One run: its name among others, its record, and the tests that its guest told of."""

    name: str
    record: LaunchRecord
    tests: Sequence[TestLine] = ()


def write_junit(path: Path, runs: Iterable[SuiteRun]) -> None:
    """Write runs to a file, which appears when it is whole, or to a device or a pipe.

    :raise CapabilityError: it cannot be written.
    """
    root = ET.Element("testsuites", name="guestlaunch kernel run")
    for run in runs:
        root.append(_suite(run))
    for element in root.iter():
        element.text = _speakable(element.text) if element.text else element.text
        element.attrib.update({key: _speakable(value) for key, value in element.attrib.items()})
    try:
        write_output(path, f'<?xml version="1.0" encoding="UTF-8"?>\n{to_text(root)}'.encode())
    except OSError as error:
        raise CapabilityError("cannot write the JUnit file", path, error.strerror or error) from error


def _speakable(text: str) -> str:
    """Return a text with what XML cannot hold escaped, as the colours of a test's name and bytes that are no UTF-8."""
    return NOT_IN_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def check_junit(path: Path) -> None:
    """Refuse to write to where nothing can be written: who ran tests for hours is not to hear of it afterwards.

    :raise CapabilityError: it cannot.
    """
    if path.exists() and not path.is_dir() and not path.is_file():
        if os.access(path, os.W_OK):
            return
        why = "it cannot be written to"
    elif path.is_dir():
        why = "it is a folder"
    elif os.access(path.resolve().parent, os.W_OK | os.X_OK):
        return
    else:
        why = "its folder is not there, or cannot be written to"
    raise CapabilityError("cannot write the JUnit file", path, why)


def _suite(run: SuiteRun) -> ET.Element:
    record, result = run.record, run.record.kernel_run
    assert result is not None  # these are runs of kernels
    cases = [_run_case(run, result), *(_test_case(run.name, test) for test in run.tests)]
    suite = ET.Element(
        "testsuite",
        name=run.name,
        tests=str(len(cases)),
        failures=str(sum(case.find("failure") is not None for case in cases)),
        errors=str(sum(case.find("error") is not None for case in cases)),
        skipped=str(sum(case.find("skipped") is not None for case in cases)),
        time=f"{record.total_ns / 1e9:.3f}",
        timestamp=datetime.fromtimestamp(record.wall_start_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%S"),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in _properties(record, result).items():
        ET.SubElement(properties, "property", name=name, value=value)
    suite.extend(cases)
    ET.SubElement(suite, "system-err").text = "\n".join(record.console_tail)
    return suite


def _properties(record: LaunchRecord, result: KernelRunRecord) -> dict[str, str]:
    dma = {True: "on", False: "off", None: "not verified"}[record.fw_cfg.verified]
    found = {
        "kernel": result.kernel,
        "version": result.version or "",
        "form": result.form,
        "profile": record.profile,
        "accel": record.accel or "",
        "fw_cfg_dma": dma,
        "launch_id": record.launch_id,
    }
    found |= {f"phase.{tile.name}_ms": f"{tile.duration_ns / 1e6:.1f}" for tile in record.tiles if tile.duration_ns}
    return found | {f"metric.{name}": f"{value:g}" for name, value in result.metrics.items()}


def _run_case(run: SuiteRun, result: KernelRunRecord) -> ET.Element:
    """Return the case that is the run itself: its command, or that it came so far."""
    case = ET.Element("testcase", classname=run.name, name=" ".join(result.command) or "boot")
    case.set("time", f"{run.record.total_ns / 1e9:.3f}")
    if result.exit_status == 0:
        return case
    kind = "failure" if result.verdict in _FAILURES else "error"
    message = run.record.error or f"exit status {result.exit_status}"
    ET.SubElement(case, kind, type=result.verdict, message=message)
    return case


def _test_case(suite: str, test: TestLine) -> ET.Element:
    group, _, name = test.name.rpartition("/")
    case = ET.Element("testcase", classname=f"{suite}.{group}" if group else suite, name=name)
    if test.outcome is TestOutcome.FAILED:
        ET.SubElement(case, "failure", message=test.note or "not ok")
    elif test.outcome is not TestOutcome.PASSED:
        ET.SubElement(case, "skipped", message=test.note)
    return case
