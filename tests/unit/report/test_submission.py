"""Results that people send in: what is in them, what is not, and that nothing sent does any harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.bench import statistics
from orchestrator.cli.main import invoke
from orchestrator.errors import UsageError
from orchestrator.report import submission
from orchestrator.report.machines import machines
from orchestrator.report.submission import Submission, from_result, parse, schema, write
from tests import simulated_results
from tests.simulated_launches import BARE, INSTRUCTIONS


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples: the figures here are far apart."""
    monkeypatch.setattr(statistics, "RESAMPLES", 99)


@pytest.fixture
def sent(tmp_path: Path) -> Submission:
    """A result made on an emulated host, as it is sent."""
    return from_result(simulated_results.seed(tmp_path / "seed.json", made=INSTRUCTIONS))


def test_what_is_written_is_read_again(sent: Submission) -> None:
    """It keeps to its schema, and comes back as it was."""
    text = write(sent)
    jsonschema.validate(json.loads(text), schema())
    assert parse(text.encode()) == sent
    assert (sent.machine.host, sent.machine.clock, sent.accel) == ("emulated", "instructions", "kvm")
    assert (sent.halved, sent.payload_bytes, sent.complete) == ("yes", 35_000_000, True)
    off = sent.figure("transfer, DMA off", "transfer")
    assert off is not None
    assert (off.megabytes, off.runs) == (4, 1)


def test_nothing_personal_is_in_it(tmp_path: Path) -> None:
    """Names of hosts, users and files, ids, errors and sides named by the user stay at home."""
    found = simulated_results.seed(tmp_path / "seed.json")
    found["environment"]["host"] |= {
        "kernel": "Linux 6.1.0-56-secret-host", "qemu": "QEMU emulator version 7.2.22 (secret-builder)",
        "cpu_model": "Some\x1b[31m CPU", "libvirt": "/home/secret/libvirtd",
    }  # fmt: skip
    found["environment"]["firmware"] = {"path": "/home/secret/code.fd", "sha256": "secret"}
    found["environment"]["launches"] |= {"appliance_path": "/home/secret", "connection": "qemu+ssh://secret/system"}
    found["sides"].append({"name": "firmware=/home/secret/a.json", "facts": {}})
    for sample in [*found["samples"]]:
        sample["launch_id"], sample["error"] = "gl-secret", "secret"
        found["samples"].append({**sample, "side": "firmware=/home/secret/a.json"})
    made = from_result(found)
    assert "secret" not in write(made)
    assert (made.machine.kernel, made.machine.qemu, made.machine.libvirt) == ("6.1.0", "7.2.22", None)
    assert made.machine.cpu_model == "Some[31m CPU"


def test_a_result_of_nothing_known_is_not_sent(tmp_path: Path) -> None:
    """A matrix over the user's own names has nothing to be compared with."""
    found = simulated_results.seed(tmp_path / "seed.json")
    found["sides"] = [{"name": "mine", "facts": {}}]
    with pytest.raises(UsageError, match="nothing to send in"):
        from_result(found)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda d: d.pop("machine"), id="lacks a part"),
        pytest.param(lambda d: d.update(path="/etc/passwd"), id="has more"),
        pytest.param(lambda d: d.update(schema_version=2), id="of another version"),
        pytest.param(lambda d: d["machine"].update(cpu_model="a\x1b]0;b\x07"), id="escape sequence"),
        pytest.param(lambda d: d["machine"].update(cpu_model="x" * 65), id="long text"),
        pytest.param(lambda d: d["machine"].update(kernel="6.1\n"), id="newline at the end"),
        pytest.param(lambda d: d["machine"].update(host="BARE"), id="unknown kind of host"),
        pytest.param(lambda d: d["machine"].update(cpus=True), id="bool for a number"),
        pytest.param(lambda d: d["figures"][0].update(median_ns=-1), id="negative time"),
        pytest.param(lambda d: d["figures"][0].update(median_ns=1.5), id="fraction"),
        pytest.param(lambda d: d["figures"][0].update(median_ns=10**19), id="endless time"),
        pytest.param(lambda d: d["figures"][0].update(side="[red]x"), id="unknown side"),
        pytest.param(lambda d: d.update(figures=[]), id="no figures"),
        pytest.param(lambda d: d.update(figures=d["figures"] * 20), id="too many figures"),
    ],
)
def test_what_is_wrong_is_refused(sent: Submission, spoil: Callable[[dict[str, Any]], object]) -> None:
    """Each in one printable line."""
    document = json.loads(write(sent))
    spoil(document)
    with pytest.raises(ValueError, match=".") as refused:
        parse(json.dumps(document).encode())
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 60_000, b'{"a": NaN}', b'{"a": ' + b"9" * 60_000 + b"}", b"x" * 70_000, b"\xff\xfe{}"]
)
def test_what_is_none_is_refused(data: bytes) -> None:
    """Whatever it is: no other exception comes of it."""
    with pytest.raises(ValueError, match="."):
        parse(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(key=st.sampled_from(sorted(schema()["required"])), value=_JSON)
def test_any_value_anywhere(key: str, value: object) -> None:
    """A part that is replaced by anything gives a value or a refusal."""
    document = json.loads(_TEXT)
    document[key] = value
    try:
        found = parse(json.dumps(document).encode())
    except ValueError:
        return
    _ = show([found])


def _made() -> str:
    figure = {"metric": "launch", "megabytes": None, "runs": 3, "median_ns": 10**9, "low_ns": 10**9, "high_ns": 10**9}
    return json.dumps(
        {
            "format": submission.FORMAT, "schema_version": 1, "date": "2026-11-26", "guestlaunch": "0.1.0",
            "kind": "fw-cfg", "complete": True, "accel": "kvm", "guest_arch": "aarch64", "modelled_trap_cost_ns": None,
            "payload_bytes": None, "halved": "yes",
            "machine": {"arch": "aarch64", "cpu_model": None, "cpus": None, "memory_gib": None, "kernel": None,
                        "qemu": None, "libvirt": None, "libguestfs": None, "host": None, "clock": None},
            "figures": [{"side": "DMA off", **figure}, {"side": "DMA on", **figure}],
        }
    )  # fmt: skip


_TEXT = _made()


def show(found: list[Submission]) -> str:
    """Return the table as an 80-column terminal shows it."""
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123 - the record is read
    with console.file:
        console.print(machines(found))
        return console.export_text()


def test_machines_side_by_side(sent: Submission, tmp_path: Path) -> None:
    """Hardware comes first; what is no hardware has its sign, and the sign its meaning; it fits 80 columns."""
    hardware = from_result(simulated_results.seed(tmp_path / "b.json", made=BARE, quick=False))
    modelled = from_result(simulated_results.fw_cfg(tmp_path / "c.json", cost_ns=5900))
    shown = show([sent, modelled, hardware])
    rows = [line for line in shown.splitlines() if "yes" in line or " no " in f"{line} "]
    assert " kvm " in rows[0]
    assert any(" kvm/i " in row for row in rows[1:])
    assert any("tcg" in row and "*" in row for row in rows[1:])
    assert "/i not on hardware: emulated host, instruction clock" in shown
    assert "MODELLED" in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    "model", ["Cortex-A57", "Intel(R) Xeon(R) Processor", "AMD EPYC 9654 96-Core Processor " * 3, "X" * 90]
)
def test_any_cpu_leaves_the_figures_whole(sent: Submission, model: str) -> None:
    """Its name alone is broken, in a terminal of 80 columns."""
    shown = show([replace(sent, machine=replace(sent.machine, cpu_model=model))])
    assert "…" not in shown
    assert " kvm/i " in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It shows what it would write, asks, writes the newest result, and reads it again with others and with results."""
    monkeypatch.setenv("GUESTLAUNCH_STATE_DIR", str(tmp_path / "state"))
    result = tmp_path / "state" / "bench" / "seed-1.json"
    simulated_results.seed(result, made=INSTRUCTIONS)
    file = tmp_path / "ours.json"
    capsys.readouterr()
    assert invoke(["report", "--submit-file", str(file), "--yes"]) == 0
    assert capsys.readouterr().out == file.read_text()
    assert invoke(["report", str(file), str(file), str(result)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("kvm/i") == 3
    assert invoke(["report", str(file), str(result), "--json"]) == 0
    assert [one["accel"] for one in json.loads(capsys.readouterr().out)["machines"]] == ["kvm", "kvm"]
    file.write_text(file.read_text().replace("emulated", "bare-metal"))
    with pytest.raises(UsageError, match="cannot read the submission"):
        invoke(["report", str(file)])
