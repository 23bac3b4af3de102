"""guestlaunch help: the manual on the terminal, or as files for man(1)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator import scratch, settings
from orchestrator.cli.bench.options import plan_options
from orchestrator.cli.filters import filter_options
from orchestrator.cli.kernel.options import run_options
from orchestrator.cli.main import COMMANDS, PROGRAM, cli
from orchestrator.cli.options import examples, settings_options
from orchestrator.daemon.main import parser
from orchestrator.errors import GuestlaunchError, UsageError, nearest
from orchestrator.manual import commands, daemon, plain, roff
from orchestrator.manual import settings as settings_page
from orchestrator.manual.page import Page
from orchestrator.manual.reference import PAGES

_TEXT_WIDTH = 80


@dataclass(frozen=True, slots=True)
class _Whole:
    """A page that is a file: its name, what it is about, and what makes it."""

    name: str
    about: str
    make: Callable[[], Page]


def _complete(context: click.Context, _argument: click.Parameter, begun: str) -> list[str]:
    """Return what a shell can put: a topic, or after a command the names of those within it."""
    words = context.params.get("topic") or ()
    known = commands.subcommands(cli, PROGRAM, words) if words else names()
    return [name for name in known if name.startswith(begun)]


@click.command(
    "help",
    epilog=examples(
        "guestlaunch help",
        "guestlaunch help settings",
        "guestlaunch help bench start",
        "guestlaunch help --write ~/.local/share/man",
    ),
)
@click.argument("topic", nargs=-1, shell_complete=_complete)
@click.option("--write", "folder", metavar="DIR", type=click.Path(path_type=Path), help="Write all pages below DIR.")
def help_(topic: Sequence[str], folder: Path | None) -> int:
    """Show the manual: through man(1), else in a pager, and as plain text where the output is no terminal.

    TOPIC is a command, or one of the other topics; without one, all are listed. The pages can also be written as files,
    DIR/man1/guestlaunch.1 and so on, where man(1) finds them.
    """
    if folder is not None:
        if topic:
            raise UsageError("options exclude each other", "--write", "with a topic")
        for path in write(folder):
            click.echo(path)
    elif topic:
        show(page(topic))
    else:
        for title, group in topics().items():
            click.echo(f"{title}:")
            for name, about in group.items():
                click.echo(f"  {name:<13} {about}")
    return 0


def topics() -> Mapping[str, Mapping[str, str]]:
    """Return all topics of one word, by groups, and what they are about."""
    return {
        "Pages": {topic: f"{one.about}: {one.name}({PAGES[one.name]})" for topic, one in _WHOLE.items()},
        "Parts of guestlaunch(1)": {name: about for name, (about, _) in commands.parts().items()},
        "Commands": {name: entry.summary for name, entry in COMMANDS.items()},
    }


def names() -> list[str]:
    """Return all topics of one word."""
    return [name for group in topics().values() for name in group]


def page(topic: Sequence[str]) -> Page:
    """Return the page about a topic.

    :raise UsageError: there is none; names those that there are.
    """
    words = " ".join(topic)
    for name, whole in _WHOLE.items():
        if words in {name, whole.name}:
            return whole.make()
    if words in commands.parts():
        about, section = commands.parts()[words]
        return Page(name=PROGRAM, number=1, about=commands.uncapitalised(about), sections=(section,))
    found = commands.command_page(cli, PROGRAM, topic, _shared())
    if found is None:
        known = f"topics: {', '.join(names())}"
        raise UsageError("no such topic", words, "", " ".join(filter(None, (nearest(words, names()), known))))
    return found


def write(folder: Path) -> list[Path]:
    """Write all pages where man(1) looks for them below a folder, and return their paths.

    :raise GuestlaunchError: one cannot be written.
    """
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())))
    written = []
    for whole in _WHOLE.values():
        made = whole.make()
        path = folder / f"man{made.number}" / made.file_name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(roff.render(made, date), encoding="ascii")
        except OSError as error:
            raise GuestlaunchError("cannot write", path, error.strerror or error) from error
        written.append(path)
    return written


def show(made: Page) -> None:
    """Show a page on the terminal; print it where there is none."""
    text = plain.render(made, _TEXT_WIDTH)
    if not sys.stdout.isatty():
        click.echo(text, nl=False)
    elif not _shown_by_man(made):
        click.echo_via_pager(text)


def _shown_by_man(made: Page) -> bool:
    """Show a page by man(1); tell whether that worked."""
    man = shutil.which("man")
    if man is None:
        return False
    with scratch.folder() as folder:
        path = folder / made.file_name
        path.write_text(roff.render(made, time.strftime("%Y-%m-%d")), encoding="ascii")
        return subprocess.run([man, "-l", str(path)], check=False).returncode == 0


def _shared() -> tuple[commands.Shared, ...]:
    """Return the options that many commands have."""
    return (
        commands.Shared(
            title="launch options",
            about="What a launch is like: each stands for the setting of its name, guestlaunch.toml(5).",
            options=_added_by(settings_options),
        ),
        commands.Shared(
            title="options that choose launches",
            about="Which recorded launches are meant; those that all of the options fit.",
            options=_added_by(filter_options),
        ),
        commands.Shared(
            title="benchmark options",
            about="How a benchmark runs. Its sides take turns, in a random order.",
            options=_added_by(plan_options),
        ),
        commands.Shared(
            title="options of a kernel's run",
            about="What a kernel that is tried gets, and how it is judged.",
            options=_added_by(run_options),
        ),
    )


def _added_by(decorator: Callable[[Any], Any]) -> list[click.Parameter]:
    """Return the options that a decorator adds to a command, in the order in which they are shown."""

    def bare(**_: object) -> None:
        """Take options."""

    return list(reversed(decorator(bare).__click_params__))


def _setting_options() -> Mapping[str, list[str]]:
    """Return the options that give a setting its value, by the setting's key."""
    found: dict[str, list[str]] = {}
    for option in _added_by(settings_options):
        found.setdefault(option.name or "", []).append(max(option.opts, key=len))
    for action in daemon.options(parser()):
        if action.dest not in found:
            found[action.dest] = [f"guestlaunchd {max(action.option_strings, key=len)}"]
    return {key: options for key, options in found.items() if settings.is_setting(settings.variable(key))}


# The pages that are files of their own, by the topic under which they are shown.
_WHOLE: Mapping[str, _Whole] = {
    "commands": _Whole("guestlaunch", "all commands and options", lambda: commands.page(cli, PROGRAM, _shared())),
    "settings": _Whole(
        "guestlaunch.toml", "settings, variables, files", lambda: settings_page.page(_setting_options())
    ),
    "daemon": _Whole("guestlaunchd", "the daemon", lambda: daemon.page(parser())),
    "wrapper": _Whole("guestlaunch-hv", "what libguestfs starts in QEMU's place", daemon.wrapper_page),
}
