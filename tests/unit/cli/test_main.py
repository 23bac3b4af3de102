"""The program's outermost layer: commands are found, mistakes are one line, nothing heavy is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from orchestrator.cli import main
from orchestrator.cli.main import COMMANDS, cli, invoke

HEAVY = ("libvirt", "guestfs", "rich", "jsonschema", "structlog", "tenacity", "asyncio", "xml.etree.ElementTree")


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environ}
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str) -> None:
    """Each line of the registry leads to a command whose help shows how to use it."""
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert "Examples:" in done.output
    assert f"guestlaunch {name}" in done.output
    assert r"\b" not in done.output


def leaves(command: click.Command, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the paths of all commands below one."""
    if not isinstance(command, click.Group):
        return [path]
    return [leaf for name, one in command.commands.items() for leaf in leaves(one, (*path, name))]


def subcommands() -> list[tuple[str, ...]]:
    """Return the paths of the commands within commands."""
    context = click.Context(cli)
    found = [(name, cli.get_command(context, name)) for name in COMMANDS]
    return [leaf for name, one in found if isinstance(one, click.Group) for leaf in leaves(one, (name,))]


@pytest.mark.parametrize("path", subcommands(), ids=" ".join)
def test_subcommands_have_examples(path: tuple[str, ...]) -> None:
    """So do the commands within commands."""
    done = CliRunner().invoke(cli, [*path, "--help"])
    assert done.exit_code == 0, done.output
    assert f"guestlaunch {' '.join(path)}" in done.output


def numbers() -> list[tuple[str, click.Parameter]]:
    """Return the options of all commands that take a number that need not be whole."""
    context = click.Context(cli)
    found = []
    for path in [*((name,) for name in COMMANDS), *subcommands()]:
        command: click.Command | None = cli
        for name in path:
            command = command.get_command(context, name) if isinstance(command, click.Group) else None
        assert command is not None
        kinds = (click.FloatRange, click.types.FloatParamType)
        found += [(" ".join(path), option) for option in command.params if isinstance(option.type, kinds)]
    return found


def test_numbers_are_numbers() -> None:
    """No option takes what no clock can wait for."""
    assert len(numbers()) > 5
    for path, option in numbers():
        for text in ("nan", "inf", "-inf", "1e300", "-1"):
            with pytest.raises(click.BadParameter):
                pytest.fail(f"{path} {option.name} {text}: {option.type.convert(text, option, None)}")


def test_overview_names_all_commands_without_importing_them() -> None:
    """--help is quick: no command's module is loaded for it."""
    done = python(
        "import sys; sys.argv = ['guestlaunch', '--help']\nfrom orchestrator.cli import main\nstatus = main.main()\n"
        "print([name for name in sys.modules if name.startswith('orchestrator.cli.')])"
    )
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stdout.splitlines()[-1] == str(["orchestrator.cli.options", "orchestrator.cli.main"])


@pytest.mark.parametrize(
    "module", ["orchestrator.cli.tools", "orchestrator.cli.session", "orchestrator.daemon.own_server"]
)
def test_launching_commands_stay_light(module: str) -> None:
    """What a launch waits for imports nothing heavy."""
    done = python(f"import sys, {module}\nprint([name for name in {HEAVY!r} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["guestfsh"], 2, "did you mean 'guestfish'"),
        (["appliance", "bild"], 2, "build"),
        (["run", "--profil", "x", "j"], 2, "--profile"),
        (["run", "/nowhere.toml"], 2, "/nowhere.toml"),
        (["guestfish", "--accel", "kvn"], 2, "kvm"),
        (["guestfish", "--vcpus", "many"], 2, "--vcpus"),
        (["guestfish", "--ro"], 2, "after --"),
        (["exec"], 2, "COMMAND"),
        (["completion", "tcsh"], 2, "bash"),
        (["domain", "define"], 2, "qemu:///system"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], status: int, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wrong input is one line on stderr that says what would be right, and status 2."""
    monkeypatch.setattr(sys, "argv", ["guestlaunch", *arguments])
    assert main.main() == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("guestlaunch: ")
    assert captured.err.count("\n") == 1
    assert part in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version says which program and which version."""
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out.startswith("guestlaunch, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each shell gets code that asks us."""
    assert invoke(["completion", shell]) == 0
    assert "_GUESTLAUNCH_COMPLETE" in capsys.readouterr().out


def test_completion_answers() -> None:
    """The shell's question is answered with our commands."""
    done = python(
        "import sys; sys.argv = ['guestlaunch']\nfrom orchestrator.cli.main import main\nmain()",
        _GUESTLAUNCH_COMPLETE="bash_complete",
        COMP_WORDS="guestlaunch gu",
        COMP_CWORD="1",
    )
    assert "guestfish" in done.stdout


def test_bash_accepts_completion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code is valid bash."""
    invoke(["completion", "bash"])
    (tmp_path / "c").write_text(capsys.readouterr().out)
    assert subprocess.run(["bash", "-n", tmp_path / "c"], check=False).returncode == 0
