"""What documents say of files, commands and rooms is so; README stays short."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from orchestrator.cli.main import PROGRAM, cli
from orchestrator.daemon.main import parser
from orchestrator.manual.commands import subcommands
from tests.unit.test_architecture import ROOMS

TOP = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    TOP / name
    for name in (
        "README.md",
        "configs/dashboards/README.md",
        "orchestrator/SECURITY.md",
        "orchestrator/launch/README.md",
        "orchestrator/install/README.md",
        "orchestrator/kernel/README.md",
        "orchestrator/vm/README.md",
        "tests/performance/RESULTS.md",
    )
]
_FOLDERS = "configs|orchestrator|tests|tools"


def named_files(text: str) -> set[str]:
    """Return the paths of the checkout that a text names."""
    return {path.rstrip(".,") for path in re.findall(rf"(?<![\w/])(?:{_FOLDERS})/[\w./-]+", text)}


def named_commands(text: str) -> set[str]:
    """Return what follows our program's name where it is typed: in backticks, after a prompt, in an indented line."""
    return set(re.findall(rf"(?:`|\$ |\(|^ {{4}}){PROGRAM} ([a-z-]+(?: [a-z-]+)?)", text, re.MULTILINE))


def exists(command: str) -> bool:
    """Tell whether words begin with a command of ours; the second is a subcommand where the first has any."""
    first, _, second = command.partition(" ")
    if first.startswith("-"):
        return True
    context = click.Context(cli)
    if cli.get_command(context, first) is None:
        return False
    known = subcommands(cli, PROGRAM, [first])
    return not known or not second or second in known


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_what_a_document_names_is_there(path: Path) -> None:
    """Files and commands exist, and so do the pages and pictures that are linked, from where the document is."""
    text = path.read_text(encoding="utf-8")
    assert sorted(name for name in named_files(text) if not (TOP / name).exists()) == []
    assert sorted(command for command in named_commands(text) if not exists(command)) == []
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_daemon_options_in_documents_are_its_own() -> None:
    """Options behind guestlaunchd's name are such."""
    known = {name for action in parser()._actions for name in action.option_strings}
    used = {
        option
        for path in DOCUMENTS
        for option in re.findall(r"guestlaunchd (--[a-z-]+)", path.read_text(encoding="utf-8"))
    }
    assert used
    assert used <= known


def test_rooms_of_the_readme_are_those_there_are() -> None:
    """Its table names every room once."""
    table = DOCUMENTS[0].read_text(encoding="utf-8").partition("| room |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", table, re.MULTILINE)
    named = [room for row in rows for room in re.findall(r"`([a-z_]+)`", row)]
    assert sorted(named) == sorted(ROOMS)


def test_readme_is_short() -> None:
    """It says what the project is and where all else stands; it is no manual."""
    assert len(DOCUMENTS[0].read_text(encoding="utf-8").splitlines()) <= 155


@pytest.mark.parametrize("text", ["see `guestlaunch frobnicate`", "    guestlaunch bench frobnicate"])
def test_a_command_that_is_not_there_is_seen(text: str) -> None:
    """The check can fail."""
    assert [command for command in named_commands(text) if not exists(command)] != []
