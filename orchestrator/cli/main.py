"""guestlaunch: the program. Finds the command's module, which is imported only when the command is used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from orchestrator import __version__, surroundings
from orchestrator.cli.options import examples
from orchestrator.errors import nearest
from orchestrator.program import complain, guarded

PROGRAM = "guestlaunch"


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command: where its click command is, and its line in the overview."""

    module: str
    attribute: str
    summary: str


# The registry. A line here is all it takes to add a command.
COMMANDS: Mapping[str, Lazy] = {
    "guestfish": Lazy("orchestrator.cli.tools", "guestfish", "Run guestfish in a launched appliance."),
    "exec": Lazy("orchestrator.cli.tools", "exec_", "Run any libguestfs program in a launched appliance."),
    "env": Lazy("orchestrator.cli.tools", "env", "Print exports with which libguestfs programs launch through us."),
    "enable": Lazy("orchestrator.cli.enable", "enable", "Have plain libguestfs programs launch through us."),
    "disable": Lazy("orchestrator.cli.enable", "disable", "Take back what enable did."),
    "run": Lazy("orchestrator.cli.jobs", "run", "Run a workload described by a job file."),
    "demo": Lazy("orchestrator.cli.demo", "demo", "Show what fw_cfg DMA saves, on a disk image made on the spot."),
    "status": Lazy("orchestrator.cli.status", "status", "Show the running daemon and its launches."),
    "metrics": Lazy("orchestrator.cli.metrics", "metrics", "Show launches as Prometheus metrics."),
    "timeline": Lazy("orchestrator.cli.timeline", "timeline", "Draw a recorded launch again."),
    "top": Lazy("orchestrator.cli.top", "top", "Show running launches live."),
    "history": Lazy("orchestrator.cli.history", "history", "List recorded launches."),
    "report": Lazy("orchestrator.cli.report", "report", "Report on launches: a page, a trace, figures."),
    "bench": Lazy("orchestrator.cli.bench.commands", "bench", "Measure what fw_cfg DMA saves; compare with others."),
    "doctor": Lazy("orchestrator.cli.doctor", "doctor", "Report what this host has and lacks."),
    "appliance": Lazy("orchestrator.cli.appliance", "appliance", "Build, list, check, move and remove appliances."),
    "template": Lazy("orchestrator.cli.template", "template", "Build, list, check and remove templates of launches."),
    "kernel": Lazy(
        "orchestrator.cli.kernel.commands", "kernel", "Try a kernel: boot it, run a command, tell how that ended."
    ),
    "install": Lazy(
        "orchestrator.cli.install", "install", "Install a system from a distribution's tree, and boot it once."
    ),
    "vm": Lazy("orchestrator.cli.vm.commands", "vm", "Make VMs of images, and keep them in libvirt."),
    "domain": Lazy("orchestrator.cli.domain", "domain", "Print, define or start a libvirt domain."),
    "help": Lazy("orchestrator.cli.help", "help_", "Show the manual: commands, settings, the daemon."),
    "completion": Lazy("orchestrator.cli.completion", "completion", "Print shell completion."),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when that command is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the commands' names, in the registry's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import and return a command; None when there is none of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called, or name the nearest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(
                f"no such command: {args[0]} ({nearest(args[0], COMMANDS) or 'see guestlaunch --help'})", ctx
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the overview from the registry, without importing a single command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "guestlaunch appliance build",
        "guestlaunch template build",
        "guestlaunch guestfish -- --ro -a disk.img -i",
        "guestlaunch exec -- virt-df -a disk.img",
        'eval "$(guestlaunch env)"; guestfish --ro -a disk.img -i',
        "guestlaunch demo",
    )
    + "\n\nThe manual: guestlaunch help. Settings, in options, GUESTLAUNCH_* variables and files: guestlaunch help "
    "settings.",
)
@click.version_option(__version__, prog_name=PROGRAM)
def cli() -> None:
    """Launch libguestfs appliances in UEFI libvirt domains over fw_cfg DMA, and time every phase."""


def main() -> int:
    """Run guestlaunch; return its exit status."""
    surroundings.settle(keep=surroundings.LEFT_TO_THE_USER)
    return guarded(PROGRAM, lambda: invoke(sys.argv[1:]))


def invoke(arguments: Sequence[str], command: click.Command = cli, program: str = PROGRAM) -> int:
    """Run one command line of a program and return its exit status.

    :param program: its name, as it is called.
    :raise GuestlaunchError: as the command does.
    """
    try:
        result: Any = command.main(args=list(arguments), prog_name=program, standalone_mode=False)
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click 8.2's way to print a group's help
            click.echo(error.format_message())
            return 2
        complain(program, _usage(error, program))
        return error.exit_code
    except click.Abort:
        return 130
    except click.ClickException as error:
        complain(program, error.format_message())
        return error.exit_code
    return result if isinstance(result, int) else 0


def _usage(error: click.UsageError, program: str) -> str:
    """Return click's complaint as one line of ours, with where to read more."""
    line = " ".join(error.format_message().split())
    path = error.ctx.command_path if error.ctx is not None else program
    if isinstance(error, click.NoSuchOption) and error.ctx is not None and not error.ctx.allow_interspersed_args:
        line += f" (the program's own options go after --: {path} [OPTIONS] -- ...)"
    return line if "(" in line else f"{line} (see {path} --help)"


if __name__ == "__main__":
    sys.exit(main())
