"""guestlaunch kernel: what it is asked, and that none of its own failures looks like a bad kernel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.kernel import matrix as matrix_module
from orchestrator.cli.kernel.options import command_argument, request_for, run_options
from orchestrator.cli.kernel.turns import Turns
from orchestrator.cli.main import invoke
from orchestrator.errors import GuestlaunchError
from orchestrator.kernel.request import KernelRequest, Told
from orchestrator.program import guarded
from orchestrator.settings import load
from tests.unit.kernel.test_series import ran, record


def status(*arguments: str) -> int:
    """Return the exit status of a command line, as the program would end with it."""
    try:
        return invoke(["kernel", *arguments])
    except GuestlaunchError as error:
        return error.exit_status


@pytest.mark.parametrize("command", ["run", "compare", "matrix"])
@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--nosuch", "Image"),
        ("--timeout", "0", "Image"),
        ("--fw-cfg", "x", "Image", "Image"),
        ("--memory-mib", "much", "Image", "Image"),
        ("--junit", "/nonexistent/junit.xml", "Image"),
    ],
)
def test_what_was_mistyped_is_no_verdict(own_state: Path, command: str, arguments: tuple[str, ...]) -> None:
    """Bisections skip what ends with 125."""
    assert own_state.parent.exists()
    assert status(command, *arguments) == 125


@pytest.mark.parametrize(
    "arguments",
    [
        ("--fw-cfg", "x=y", "Image"),
        ("--share", "/tmp", "Image"),
        ("--console", "/nonexistent/console", "Image", "--", "true"),
        ("--profile", "nosuch", "Image", "--", "true"),
        ("/nonexistent/Image", "--", "true"),
    ],
)
def test_what_cannot_be_is_no_verdict(
    own_state: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Neither is a kernel that was not built, or a host that lacks something; one line says why."""
    assert own_state.parent.exists()
    assert status("run", *arguments) == 125
    assert len(capsys.readouterr().err.splitlines()) <= 1


ARM64 = bytes(0x38) + b"ARM\x64" + bytes(0x400)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("compare Image none -- true", "cannot read the kernel: {}/none"),
        ("compare Image text -- true", "cannot use the kernel: {}/text"),
        ("compare --initrd none Image Image", "cannot read the initrd: {}/none"),
        ("matrix --axis firmware=code,none Image -- true", "cannot use the firmware: {}/none"),
        ("matrix --axis vcpus=1,2 --disk fifo Image -- true", "cannot open the disk: {}/fifo"),
        ("matrix --axis vcpus=1,2 --fw-cfg opt/a@none Image -- true", "cannot read: {}/none"),
        ("run --repeat 2 --share none Image -- true", "cannot share the directory: {}/none"),
        ("run --repeat 2 none", "cannot read the kernel: {}/none"),
    ],
)
def test_all_inputs_are_looked_at_before_anything_runs(
    own_state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, why: str
) -> None:
    """Nobody waits for ten rounds of the one kernel to be told that there is no other."""

    def run(*_: object, **__: object) -> None:
        raise AssertionError("it ran")

    assert own_state.parent.exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.kernel.runner.Runner.carry_out", run)
    (tmp_path / "Image").write_bytes(ARM64)
    (tmp_path / "code").write_bytes(ARM64)
    (tmp_path / "text").write_text("no kernel" * 1000)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(GuestlaunchError) as caught:
        invoke(["kernel", *command.split()])
    assert caught.value.exit_status == 125
    assert str(caught.value).startswith(why.format(tmp_path))


def test_a_console_is_not_kept_where_something_else_is(own_state: Path, tmp_path: Path) -> None:
    """The file is as it was."""
    assert own_state.parent.exists()
    (tmp_path / "Image").write_bytes(ARM64)
    with pytest.raises(GuestlaunchError, match="as --console and as KERNEL"):
        invoke(["kernel", "run", "--console", str(tmp_path / "Image"), str(tmp_path / "Image"), "--", "true"])
    assert (tmp_path / "Image").read_bytes() == ARM64


def test_a_defect_of_ours_is_no_verdict(
    own_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What nobody foresaw is said to be a bug, and to a bisection it is nothing."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr("orchestrator.kernel.runner.Runner.carry_out", broken)
    assert own_state.parent.exists()
    assert guarded("guestlaunch", lambda: invoke(["kernel", "run", "Image", "--", "true"])) == 125
    assert "this is a bug" in capsys.readouterr().err


def test_other_commands_keep_their_status(own_state: Path) -> None:
    """Only these are made for bisections."""
    assert own_state.parent.exists()
    assert invoke(["history", "--nosuch"]) == 2


def test_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options become a request; `builtin` is none of the files."""
    import click

    taken: list[dict[str, Any]] = []

    @click.command()
    @run_options
    def probe(*, wish: dict[str, Any]) -> None:
        """Take what the options say."""
        taken.append(wish)

    monkeypatch.chdir(tmp_path)
    options = (
        "--initrd a.cpio --initrd builtin --cmdline quiet --unpack --modules mods --disk a.img --disk-ro b.img"
        " --share . --fw-cfg opt/a=b --credential c@d --firmware code.fd --timeout 3 --tap"
    )
    CliRunner().invoke(probe, options.split(), catch_exceptions=False)
    assert request_for(Path("Image"), ("sh", "-c", "x"), taken[0]) == KernelRequest(
        kernel=tmp_path / "Image",
        initrds=(tmp_path / "a.cpio",),
        builtin=True,
        cmdline="quiet",
        command=("sh", "-c", "x"),
        unpack=True,
        modules=tmp_path / "mods",
        disks=((tmp_path / "a.img", False), (tmp_path / "b.img", True)),
        share=tmp_path,
        fw_cfg=(Told(name="opt/a", text="b"),),
        credentials=(Told(name="c", path=tmp_path / "d"),),
        firmware=(tmp_path / "code.fd", None),
        timeout_s=3.0,
        tap=True,
    )


@pytest.mark.parametrize("given", [("--", "a", "--", "-b"), ("a", "--", "-b"), ("--",), ()])
def test_a_command_is_what_follows(given: tuple[str, ...]) -> None:
    """With or without dashes before it; those within are its own."""
    import click

    taken: list[tuple[str, ...]] = []

    @click.command(context_settings={"allow_interspersed_args": False})
    @click.option("--unpack", is_flag=True)
    @click.argument("kernel")
    @command_argument
    def probe(*, unpack: bool, kernel: str, command: tuple[str, ...]) -> None:
        """Take the command."""
        assert (unpack, kernel) == (True, "Image")
        taken.append(command)

    CliRunner().invoke(probe, ["--unpack", "Image", *given], catch_exceptions=False)
    assert taken == [("a", "--", "-b") if "a" in given else ()]


def test_cells_become_variants(own_state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell's settings are checked like options, and stand over variables; firmware is the request's."""
    monkeypatch.setenv("GUESTLAUNCH_MEMORY_MIB", "1024")
    monkeypatch.setenv("GUESTLAUNCH_PROFILE", "x86_64-bare")
    request = KernelRequest(kernel=Path("/Image"))
    cell = {"profile": "aarch64-uefi", "fw-cfg-dma": "off", "firmware": "/code.fd"}
    variant = matrix_module._variant(request, load(), cell)
    assert variant.settings.state_dir == own_state
    assert (variant.settings.profile, variant.settings.fw_cfg_dma) == ("aarch64-uefi", False)
    assert variant.settings.memory_mib == 1024
    assert variant.request.firmware == (Path("/code.fd"), None)
    assert variant.name == "profile=aarch64-uefi fw-cfg-dma=off firmware=/code.fd"
    with pytest.raises(GuestlaunchError, match="--vcpus"):
        matrix_module._variant(request, load(), {"vcpus": "many"})


def test_a_grid_is_shown(own_state: Path) -> None:
    """A line for each cell, also for those that were never run."""
    assert own_state.parent.exists()
    request = KernelRequest(kernel=Path("/Image"))
    variants = [matrix_module._variant(request, load(), {"vcpus": number}) for number in ("1", "2", "3")]
    runs = [ran("vcpus=1", n, record(boot_ns=2 * 10**9)) for n in range(3)]
    runs.append(ran("vcpus=2", 0, record(121, verdict="panic")))
    assert matrix_module.table(variants, runs) == [
        "              boot  transfer  ended",
        "vcpus=1     2.00 s  0.002 ms  3 x exit status 0",
        "vcpus=2          -         -  panic",
        "vcpus=3          -         -  not run",
    ]


@pytest.mark.usefixtures("few_resamples")
def test_two_cells_are_compared(own_state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As text, with the verdict last; as JSON with all runs, of which each says what it was of."""
    assert own_state.parent.exists()
    request = KernelRequest(kernel=Path("/Image"))
    variants = [matrix_module._variant(request, load(), {"firmware": name}) for name in ("/a.fd", "/b.fd")]
    runs = [
        ran(f"firmware=/{letter}.fd", number, record(boot_ns=(1 + (letter == "a")) * 10**9 + number))
        for number in range(7)
        for letter in "ab"
    ]
    turns = Turns(variants=variants, rounds=7, runs=runs, signals=[])
    assert turns.exit_status == 0
    turns.show(compared=True, as_json=False)
    assert capsys.readouterr().out.splitlines()[-1].endswith("n = 7: B is faster")
    turns.show(compared=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["comparison"]["times"][0]["metric"] == "boot"
    assert [one["variant"] for one in found["runs"][:2]] == ["firmware=/a.fd", "firmware=/b.fd"]
    turns.show(compared=False, as_json=True)
    assert json.loads(capsys.readouterr().out)["comparison"] is None
    assert Turns(variants=variants, rounds=7, runs=runs, signals=[15]).exit_status == 143
