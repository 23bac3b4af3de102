"""The answers to libguestfs's probes contain what libguestfs looks for, and nothing that we cannot keep."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.wrapper import argv, probe
from tests.unit.wrapper.programs import COMMAND, environment, installed

QMP = ["-display", "none", "-machine", "accel=kvm:tcg", "-qmp", "stdio"]
QMP_NEWER = [
    ["-display", "none", "-cpu", "max", "-machine", "q35,accel=kvm:hvf:tcg", "-qmp", "stdio"],  # 1.58
    ["-display", "none", "-machine", "none,accel=kvm:hvf:tcg", "-qmp", "stdio", "-S"],  # 1.60
]


def ask(arguments: list[str], given: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run guestlaunch-hv with arguments."""
    return subprocess.run(
        [*COMMAND, *arguments], input=given, capture_output=True, text=True, timeout=60, check=False,
        env=environment(**variables),
    )  # fmt: skip


def session(command: str, arguments: list[str], **variables: str) -> list[dict[str, Any]]:
    """Run a QMP session as libguestfs does: three commands on one line."""
    given = " ".join(f'{{ "execute": "{name}" }}' for name in ("qmp_capabilities", command, "quit")) + "\n"
    done = ask(arguments, given, **variables)
    assert done.returncode == 0
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_help() -> None:
    """-help starts with the version and names the options that libguestfs up to 1.56 then uses."""
    done = ask(["-display", "none", "-help"])
    assert done.returncode == 0
    version = re.search(r"(\d+)\.(\d+)", done.stdout)
    assert version is not None
    assert (int(version[1]), int(version[2])) == probe.INTERFACE_VERSION[:2]
    assert "-no-user-config" in done.stdout
    assert "-nodefaults" in done.stdout
    assert "-no-hpet" not in done.stdout


def test_help_names_only_what_is_translated() -> None:
    """Each option that -help names is one that the translation knows, and it names all but -no-hpet."""
    named = {line for line in probe.help_text().splitlines() if line.startswith("-")}
    assert named == argv._OPTIONS - {"-no-hpet"}


@pytest.mark.parametrize("machine", ["accel=kvm:tcg", "virt,accel=kvm:tcg", "q35,accel=kvm:hvf:tcg"])
def test_devices(machine: str) -> None:
    """-device ? lists, in QEMU's form, virtio-rng-pci and what else is translated."""
    done = ask(["-display", "none", "-machine", machine, "-device", "?"])
    assert done.returncode == 0
    assert 'name "virtio-rng-pci", bus PCI' in done.stdout


def test_devices_are_those_translated() -> None:
    """The devices listed are exactly those that the translation takes."""
    known = {value.partition(",")[0] for option, value in argv.NO_EFFECT if option == "-device" and value}
    known |= {*argv._BUSES, "virtserialport", "virtio-net-pci"}
    assert {name for name, _, _ in probe.DEVICES} == {name for name in known if not name.endswith(("-device", "-ccw"))}


@pytest.mark.parametrize("arguments", [QMP, *QMP_NEWER])
def test_query_kvm(arguments: list[str]) -> None:
    """query-kvm follows the orchestrator's variable; the session has the five lines libguestfs reads."""
    for value, enabled in (("", False), ("1", True), ("yes", False)):
        lines = session("query-kvm", arguments, GUESTLAUNCH_KVM=value)
        assert list(lines[0]) == ["QMP"]
        assert lines[1:4] == [{"return": {}}, {"return": {"enabled": enabled, "present": enabled}}, {"return": {}}]
        assert lines[4]["event"] == "SHUTDOWN"
        assert len(lines) == 5


@pytest.mark.parametrize(("kvm", "arguments"), list(zip(("", "1", "yes"), (QMP, *QMP_NEWER), strict=True)))
@pytest.mark.parametrize(
    "given",
    [
        '{ "execute": "qmp_capabilities" } { "execute": "query-kvm" } { "execute": "quit" }\n',
        '{ "execute": "qmp_capabilities" } { "execute": "query-qmp-schema" } { "execute": "quit" }\n',
        '{"execute":"query-kvm"}\n{"execute":"qmp_capabilities","id":1}{"execute":"system_reset","id":"x"}\n',
        '{"execute": "qmp_capabilities", "arguments":\n{"enable": ["a\\\\b"]}}',
        '{"execute": "qmp_capabilities"}{"execute": "quit"}',
        "no JSON\n\n",
        "\n",
        "",
    ],
)  # fmt: skip
def test_the_installed_program_answers_as_the_module(
    tmp_path: Path, arguments: list[str], kvm: str, given: str
) -> None:
    """The shell's own answer to query-kvm is Python's, but for the time; all else is Python's, line for line."""
    said = [
        subprocess.run(
            [*program, *arguments], input=given, capture_output=True, text=True, timeout=60, check=True,
            env=environment(GUESTLAUNCH_KVM=kvm),
        ).stdout
        for program in ((installed(tmp_path),), COMMAND)
    ]  # fmt: skip
    shells, modules = ([re.sub(r'(seconds": )-?\d+', r"\1T", line) for line in text.splitlines()] for text in said)
    assert shells == modules


def test_query_kvm_starts_no_other_program(tmp_path: Path) -> None:
    """What is asked before each launch is answered by the shell alone, at once, though its caller still listens."""
    program = installed(tmp_path)
    python = program.with_name("python3")
    python.unlink()
    python.write_text("#!/bin/sh\nexit 9\n", encoding="ascii")
    python.chmod(0o755)
    with subprocess.Popen(
        [program, *QMP], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(GUESTLAUNCH_KVM="1", PATH="/nonexistent"),
    ) as asked:  # fmt: skip
        assert asked.stdin is not None
        assert asked.stdout is not None
        assert json.loads(asked.stdout.readline()).keys() == {"QMP"}
        asked.stdin.write('{ "execute": "qmp_capabilities" } { "execute": "query-kvm" } { "execute": "quit" }\n')
        asked.stdin.flush()
        lines = [json.loads(line) for line in asked.stdout]
        assert asked.wait(10) == 0
    assert lines[1] == {"return": {"enabled": True, "present": True}}


def test_schema_has_locking() -> None:
    """query-qmp-schema holds the object member that makes libguestfs open overlays with locking=off."""
    schema = session("query-qmp-schema", QMP)[2]["return"]
    members = [m["name"] for item in schema if item["meta-type"] == "object" for m in item["members"]]
    assert "locking" in members


def test_unknown_command_and_order() -> None:
    """As in QEMU, there are no commands before the negotiation, and unknown ones are errors that keep their id."""
    given = '{"execute":"query-kvm"}\n{"execute":"qmp_capabilities","id":1}{"execute":"system_reset","id":"x"}\n'
    lines = [json.loads(line) for line in ask(QMP, given).stdout.splitlines()]
    assert lines[1]["error"]["class"] == "CommandNotFound"
    assert lines[2] == {"return": {}, "id": 1}
    assert (lines[3]["error"]["class"], lines[3]["id"]) == ("CommandNotFound", "x")


def test_version_is_of_the_qemu_that_runs() -> None:
    """-version says which QEMUs are installed; it is only asked for to be logged."""
    done = ask(["-version"], PATH="/nonexistent")
    assert done.returncode == 0
    assert done.stdout.startswith("guestlaunch-hv ")
    assert "qemu-system" not in done.stdout


def test_answers_are_constant() -> None:
    """Answers are cached by libguestfs: the environment and the host's QEMU must not be in them."""
    for question in (["-help"], ["-machine", "accel=kvm:tcg", "-device", "?"]):
        assert ask(question).stdout == ask(question, PATH="/nonexistent", GUESTLAUNCH_KVM="1", LANG="de_DE").stdout


@pytest.mark.parametrize("arguments", [[], ["disk.img"], ["-device", "x"]])
def test_neither_probe_nor_launch(arguments: list[str]) -> None:
    """Somebody who starts the program by hand gets one line that says what it is for."""
    done = ask(arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "LIBGUESTFS_HV" in done.stderr


def test_python_variables_do_not_reach_stdout() -> None:
    """Variables that make Python talk or stay do neither on stdout."""
    done = ask(QMP, "", PYTHONINSPECT="1", PYTHONWARNINGS="always", PYTHONDEVMODE="1")
    assert done.returncode == 0
    assert [list(json.loads(line)) for line in done.stdout.splitlines()] == [["QMP"]]
