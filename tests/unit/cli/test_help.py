"""The manual has every command, option, setting and variable; it is shown by what there is; its files please man(1)."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from orchestrator.cli import help as manual
from orchestrator.cli import main
from orchestrator.cli.main import COMMANDS, PROGRAM, cli, invoke
from orchestrator.daemon.main import parser
from orchestrator.manual import plain, reference
from orchestrator.manual.commands import parts
from orchestrator.settings import OWN_VARIABLES, directories
from orchestrator.timeline.phases import Phase

PAGES = ("man1/guestlaunch.1", "man1/guestlaunch-hv.1", "man5/guestlaunch.toml.5", "man8/guestlaunchd.8")


def text(*topic: str) -> str:
    """Return a topic's page, filled into one line."""
    return " ".join(plain.render(manual.page(topic)).split())


def commands(context: click.Context) -> Iterator[click.Context]:
    """Yield all commands that are no groups, with those that lead to them."""
    if not isinstance(context.command, click.Group):
        yield context
        return
    for name in context.command.list_commands(context):
        one = context.command.get_command(context, name)
        assert one is not None
        yield from commands(click.Context(one, info_name=name, parent=context))


def test_every_command_and_option_is_in_the_page() -> None:
    """guestlaunch(1) has a section of each command, and each of its options with its help."""
    whole = text("commands")
    found = list(commands(click.Context(cli, info_name=PROGRAM)))
    assert len(found) > len(COMMANDS)
    for context in found:
        assert f" {context.command_path} " in whole
        for option in context.command.params:
            if isinstance(option, click.Option):
                record = option.get_help_record(context)
                assert record is not None
                assert " ".join(" ".join(record).split()) in whole, context.command_path


def test_every_option_of_the_daemon_is_in_its_page() -> None:
    """guestlaunchd(8) has each option, and the examples of --help."""
    page = text("daemon")
    options = [name for action in parser()._actions for name in action.option_strings]
    assert "--standby" in options
    assert [name for name in options if name not in page] == []
    assert "guestlaunchd --config /etc/site.toml" in page


def test_every_variable_file_and_phase_is_there() -> None:
    """Our own variables, what lies in the state directory, and the phases of a launch are explained."""
    assert [name for name in OWN_VARIABLES if name not in text("environment")] == []
    known = (*directories.TELLING, *directories.COMMON)
    assert [name for name in known if f"STATE/{name}" not in text("files")] == []
    assert set(reference.BEGINS) == set(Phase)
    assert [phase for phase in Phase if f" {phase} " not in text("phases")] == []


def test_settings_name_their_options() -> None:
    """A key's entry has the option that sets it, the daemon's where it is only the daemon's."""
    page = text("settings")
    assert "Also --fw-cfg-dma or GUESTLAUNCH_FW_CFG_DMA." in page
    assert "Also guestlaunchd --standby or GUESTLAUNCH_STANDBY." in page


@pytest.mark.parametrize("topic", [*manual.names(), "guestlaunchd", "guestlaunch.toml", "bench start"])
def test_every_topic_has_a_page(topic: str) -> None:
    """Whatever is listed can be shown; so can pages by their names, and commands within commands."""
    assert text(*topic.split()).startswith("guestlaunch")


def test_topics_have_one_meaning() -> None:
    """No command hides another topic."""
    assert set(manual._WHOLE) | set(parts()) == set(manual.names()) - set(COMMANDS)
    assert len(set(manual.names())) == len(manual.names())


def test_a_command_has_its_own_page_only() -> None:
    """It says what it takes, and explains what it shares with others."""
    page = text("bench", "sweep")
    assert page.startswith("guestlaunch-bench-sweep(1)")
    assert "--sizes MB,..." in page
    assert "--fw-cfg-dma" in page
    assert "guestfish" not in page.partition("EXAMPLES")[0].replace("guestfish.", "")


def test_unknown_topic_names_the_known(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, status 2, with the nearest and all that there are."""
    monkeypatch.setattr(sys, "argv", ["guestlaunch", "help", "setings"])
    assert main.main() == 2
    said = capsys.readouterr().err
    assert said.startswith("guestlaunch: no such topic: setings (did you mean 'settings'? topics: commands, settings,")
    assert said.count("\n") == 1


def test_without_a_topic_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Each has a line, of at most 80 columns."""
    assert invoke(["help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(" ")] == manual.names()
    assert max(map(len, lines)) <= 80


def test_completion_knows_topics() -> None:
    """A shell is offered topics, and after a command those within it."""
    environ = {**os.environ, "_GUESTLAUNCH_COMPLETE": "bash_complete"}
    for words, answer in (("guestlaunch help set", "plain,settings"), ("guestlaunch help bench reg", "plain,regress")):
        count = str(len(words.split()) - 1)
        code = "import sys; sys.argv = ['guestlaunch']\nfrom orchestrator.cli.main import main\nmain()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ | {"COMP_WORDS": words, "COMP_CWORD": count},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.stdout.splitlines() == [answer]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all pages, written by the program of tools/."""
    folder = tmp_path_factory.mktemp("man")
    program = Path(__file__).resolve().parents[3] / "tools/manual"
    environ = {**os.environ, "SOURCE_DATE_EPOCH": "86400"}
    done = subprocess.run([program, folder], env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(str(folder / page) for page in PAGES)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_man_has_nothing_to_say_against_a_page(page: str, written: Path) -> None:
    """The formatter warns of nothing, no line is wider than the terminal, and the date is the one that was given."""
    command = ["man", "--warnings", "-E", "UTF-8", "-l", str(written / page)]
    environ = {**os.environ, "MANWIDTH": "80", "MANROFFSEQ": "", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = re.sub(".\b|\x1b[^m]*m", "", done.stdout).splitlines()
    assert len(lines) > 20
    assert [line for line in lines if len(line) > 80] == []
    assert "1970-01-02" in lines[-1]


def on_a_terminal(command: list[str], **environ: str) -> str:
    """Run a command with a terminal as its output, and return what it shows."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environ}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:  # the other side is closed
            pass
        finally:
            os.close(ours)
        assert process.wait(60) == 0
    return shown.decode()


@pytest.mark.parametrize("with_man", [True, False], ids=["man", "pager"])
def test_terminal_shows_the_page(tmp_path: Path, *, with_man: bool) -> None:
    """man(1) gets the page's source where it is there; a pager gets text where it is not."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("cat", "sh"):
        found = shutil.which(name)
        assert found is not None
        (programs / name).symlink_to(found)
    if with_man:
        (programs / "man").write_text('#!/bin/sh\necho "man shows $1" && cat "$2"\n')
        (programs / "man").chmod(0o755)
    code = "import sys; sys.argv = ['guestlaunch', 'help', 'daemon']\nfrom orchestrator.cli.main import main\nmain()"
    shown = on_a_terminal([sys.executable, "-c", code], PATH=str(programs), PAGER="cat", TERM="dumb")
    assert ("man shows -l" in shown, ".TH GUESTLAUNCHD 8" in shown) == (with_man, with_man)
    assert ("guestlaunchd(8) - launch appliances" in shown) != with_man


def test_on_a_host_that_lacks_all(tmp_path: Path) -> None:
    """Where neither libvirt nor libguestfs is installed, the manual is there, and can be written into a package."""
    code = (
        "import sys\n"
        "absent = ('libvirt', 'libvirtmod', 'libvirt_qemu', 'guestfs', 'tenacity', 'structlog', 'jsonschema')\n"
        "sys.modules.update(dict.fromkeys(absent))\n"  # None: importing it raises ImportError
        f"sys.argv = ['guestlaunch', 'help', '--write', {str(tmp_path)!r}]\n"
        "from orchestrator.cli.main import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert {str(page.relative_to(tmp_path)) for page in tmp_path.rglob("*.[0-9]")} == set(PAGES)


def test_names_keep_their_capitals() -> None:
    """Only the first letter of what a page is about is that of a sentence."""
    assert text("vm").startswith("guestlaunch-vm(1) - make VMs of images, ")
