"""guestlaunch(1), made from click's commands; what many commands share stands there once."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import click

from orchestrator.manual import reference
from orchestrator.manual.page import Block, Entry, Lines, Page, Paragraph, Section, blocks, continued, entry
from orchestrator.workload import job

ABOUT = "launch libguestfs appliances in UEFI virtual machines, and time every phase"
# What an example may have of the 80 columns of a terminal, in the deepest section.
_EXAMPLE_WIDTH = 66

_DESCRIPTION = (
    Paragraph(
        "libguestfs does its work in a small virtual machine, its appliance. guestlaunch launches that appliance"
        " through libvirt, hands kernel and initrd over by fw_cfg DMA, and times every phase of the launch."
        " `guestfish`, the virt-* tools and the guestfs bindings stay as they are: `guestlaunch guestfish` and"
        ' `guestlaunch exec` run them, and after `eval "$(guestlaunch env)"`'
        " they launch through guestlaunch wherever they are started."
    ),
    Paragraph(
        "A launch is cold when firmware and kernel boot for it; warm when it is cloned from a template, the same"
        " appliance saved at a point of its boot where it has not looked at any disk; and standby when guestlaunchd(8)"
        " had such a clone ready."
    ),
    Paragraph("`guestlaunch help TOPIC` shows this page, parts of it, and the others."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """Options that several commands have in common.

    :ivar title: what they are called: "launch options".
    :ivar about: what they are for.
    """

    title: str
    about: str
    options: Sequence[click.Parameter]


def page(cli: click.Group, program: str, shared: Sequence[Shared]) -> Page:
    """Return the page of all commands.

    :param shared: what is explained once, and only referred to by the commands.
    """
    root = _root(cli, program)
    return Page(
        name=program,
        number=1,
        about=ABOUT,
        sections=(
            Section("SYNOPSIS", (Lines((f"{program} COMMAND [OPTIONS] [ARGUMENTS]...",)),)),
            Section("DESCRIPTION", _DESCRIPTION),
            Section("COMMANDS", sections=tuple(_sections(root, shared))),
            Section("OPTIONS OF MANY COMMANDS", _general(root), tuple(_shared(one, root) for one in shared)),
            *(section for _, section in parts().values()),
            Section("EXAMPLES", tuple(_examples(cli.epilog or ""))),
            Section("SEE ALSO", (Paragraph(reference.see_also(program)),)),
        ),
    )


def parts() -> Mapping[str, tuple[str, Section]]:
    """Return the sections that are topics of their own: by the topic, with what they are about."""
    format_ = Section(
        "JOB FILES",
        (
            Paragraph("What `guestlaunch run` carries out is a file in TOML with these keys:"),
            *_keys(job.__doc__ or ""),
            Paragraph("Relative paths start from the file's directory. configs/jobs in the sources has examples."),
        ),
    )
    return {
        "phases": ("What a launch is made of, and who sees it.", reference.PHASES),
        "jobs": ("The files that guestlaunch run carries out.", format_),
        "proof": ("Three commands that prove it on your machine.", reference.PROOF),
        "exit-status": ("What exit statuses mean.", reference.STATUS),
        "environment": ("Variables that are read or set.", reference.environment()),
        "files": ("Where things are kept.", reference.FILES),
    }


def subcommands(cli: click.Group, program: str, path: Sequence[str]) -> list[str]:
    """Return the names of the commands within one; none where it is no group, or is not there."""
    context = _found(cli, program, path)
    if context is None or not isinstance(context.command, click.Group):
        return []
    return context.command.list_commands(context)


def command_page(cli: click.Group, program: str, path: Sequence[str], shared: Sequence[Shared]) -> Page | None:
    """Return a page about one command, or a group of them; None when there is none of that name."""
    context = _found(cli, program, path)
    if context is None:
        return None
    sections = tuple(_sections(context, shared, top=True))
    referred = [one for one in shared if any(_has(leaf, one) for leaf in _leaves(context))]
    return Page(
        name="-".join(context.command_path.split()),
        number=1,
        about=uncapitalised(context.command.get_short_help_str(200).rstrip(".")),
        sections=(*sections, *(_shared(one, context) for one in referred)),
    )


def uncapitalised(about: str) -> str:
    """Return what a page is about as man pages have it; names keep their capitals."""
    return about[:1].lower() + about[1:]


def _root(cli: click.Group, program: str) -> click.Context:
    return click.Context(cli, info_name=program, **cli.context_settings)


def _found(cli: click.Group, program: str, path: Sequence[str]) -> click.Context | None:
    """Return a command with those that lead to it."""
    context = _root(cli, program)
    for word in path:
        group = context.command
        found = group.get_command(context, word) if isinstance(group, click.Group) else None
        if found is None:
            return None
        context = click.Context(found, info_name=word, parent=context)
    return context


def _sections(context: click.Context, shared: Sequence[Shared], *, top: bool = False) -> Iterator[Section]:
    """Yield a section for a command, or for each command of a group, however deep; the group comes first."""
    command = context.command
    if context.parent is not None and (top or not isinstance(command, click.Group) or _own(context)):
        yield _section(context, shared)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            one = command.get_command(context, name)
            if one is not None and not one.hidden:
                yield from _sections(click.Context(one, info_name=name, parent=context), shared)


def _section(context: click.Context, shared: Sequence[Shared]) -> Section:
    command = context.command
    common = [one for one in shared if _has(context, one)]
    names = {option.name for one in common for option in one.options}
    found: list[Block] = [*blocks(command.help or "")]
    found += [_option(option, context) for option in _own(context) if option.name not in names]
    if common:
        found.append(Paragraph(f"Also the {' and the '.join(one.title for one in common)}, below."))
    found += _examples(command.epilog or "")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return Section(usage, tuple(found))


def _general(root: click.Context) -> tuple[Block, ...]:
    help_option = root.command.get_help_option(root)
    options = [*_own(root), *([help_option] if help_option else [])]
    return (Paragraph("Every command has `--help`."), *(_option(one, root) for one in options))


def _shared(one: Shared, context: click.Context) -> Section:
    return Section(
        one.title.capitalize(), (Paragraph(one.about), *(_option(option, context) for option in one.options))
    )


def _own(context: click.Context) -> list[click.Option]:
    """Return a command's options, without its --help."""
    help_option = context.command.get_help_option(context)
    return [
        one
        for one in context.command.params
        if isinstance(one, click.Option) and one is not help_option and not one.hidden
    ]


def _has(context: click.Context, shared: Shared) -> bool:
    """Tell whether a command has all options of a kind."""
    return {option.name for option in shared.options} <= {option.name for option in context.command.params}


def _leaves(context: click.Context) -> Iterable[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            one = context.command.get_command(context, name)
            if one is not None:
                yield from _leaves(click.Context(one, info_name=name, parent=context))


def _option(option: click.Parameter, context: click.Context) -> Entry:
    record = option.get_help_record(context)
    assert record is not None  # hidden ones are left out
    return entry(*record)


def _examples(epilog: str) -> Iterator[Block]:
    """Yield what follows a command's help: its examples, without the heading, and what else is said."""
    for block in blocks(epilog):
        if isinstance(block, Lines):
            rows = textwrap.dedent("\n".join(row for row in block.lines if row != "Examples:")).splitlines()
            yield Lines(tuple(part for row in rows for part in continued(row, _EXAMPLE_WIDTH)))
        else:
            yield block


def _keys(docstring: str) -> Iterator[Entry]:
    """Yield what a docstring's indented lines explain: what is typed and, set off by spaces, what it is for."""
    for row in docstring.splitlines():
        if row.startswith("    "):
            typed, about = re.split(r"\s{2,}", row.strip(), maxsplit=1)
            yield entry(f"`{typed}`", f"{about[0].upper()}{about[1:]}.")
