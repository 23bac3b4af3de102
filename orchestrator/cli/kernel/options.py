"""What the commands about kernels have in common: the options of a run, and failures that are no verdict."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.cli.options import SECONDS, collected
from orchestrator.kernel.request import KernelRequest, Told
from orchestrator.kernel.share import ShareBy
from orchestrator.kernel.verdict import UNJUDGED

_F = TypeVar("_F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)
BUILTIN = "builtin"


class BisectSafe(click.Command):
    """A command of which every failure of its own ends with the status that means: it cannot be judged."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:  # noqa: ANN401 - click's own signature
        """Understand its arguments."""
        with _unjudged():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as above
        """Carry it out."""
        with _unjudged():
            return super().invoke(ctx)


@contextlib.contextmanager
def _unjudged() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        vars(error)["exit_code"] = UNJUDGED  # click has it for whole classes
        raise
    except Exception as error:
        vars(error)["exit_status"] = UNJUDGED  # of ours, and of what is a defect of ours
        raise


def _wish(**given: Any) -> dict[str, Any]:  # noqa: ANN401 - the options below
    """Return what the options say of a request, but for its kernel and command."""
    return {
        "initrds": tuple(Path(name).absolute() for name in given["initrds"] if name != BUILTIN),
        "builtin": BUILTIN in given["initrds"],
        "cmdline": given["cmdline"],
        "unpack": given["unpack"],
        "modules": _absolute(given["modules"]),
        "disks": tuple(
            (path.absolute(), readonly)
            for paths, readonly in ((given["disks"], False), (given["readonly_disks"], True))
            for path in paths
        ),
        "share": None if given["share"] is None else given["share"].resolve(),
        "share_by": ShareBy(given["share_by"]),
        "fw_cfg": tuple(Told.parse("--fw-cfg", text) for text in given["fw_cfg"]),
        "credentials": tuple(Told.parse("--credential", text) for text in given["credentials"]),
        "firmware": (_absolute(given["firmware"]), _absolute(given["firmware_vars"])),
        "timeout_s": given["timeout_s"],
        "tap": given["tap"],
    }


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def request_for(kernel: Path, command: tuple[str, ...], wish: dict[str, Any]) -> KernelRequest:
    """Return the request for a kernel with what the options say."""
    return KernelRequest(kernel=kernel.absolute(), command=command, **wish)


# Adds the options of a run to a command, which receives `wish`.
run_options = collected(
    "wish",
    _wish,
    click.option(
        "--initrd", "initrds", metavar="FILE", multiple=True,
        help="Initial RAM disk, or builtin for our own. Can be repeated.",
    ),
    click.option("--cmdline", metavar="TEXT", default="", help="Kernel command line."),
    click.option("--unpack", is_flag=True, help="Unpack the kernel on the host, even where firmware could start it."),
    click.option("--modules", metavar="DIR", type=FILE, help="The kernel's modules, as depmod left them."),
    click.option("--disk", "disks", metavar="FILE", type=FILE, multiple=True, help="Disk; can be repeated."),
    click.option(
        "--disk-ro", "readonly_disks", metavar="FILE", type=FILE, multiple=True,
        help="Disk that the guest cannot write to, behind the others.",
    ),
    click.option("--share", metavar="DIR", type=FILE, help="Directory that the command may read, and starts in."),
    click.option(
        "--share-by", type=click.Choice([str(way) for way in ShareBy]), default=str(ShareBy.AUTO), show_default=True,
        help="How: auto is 9p, or virtiofs for a kernel that is known to have no 9p.",
    ),
    click.option(
        "--fw-cfg", "fw_cfg", metavar="NAME=TEXT", multiple=True,
        help="fw_cfg file opt/...; NAME@FILE takes a file's content.",
    ),
    click.option(
        "--credential", "credentials", metavar="NAME=TEXT", multiple=True,
        help="systemd credential, by SMBIOS; NAME@FILE likewise.",
    ),
    click.option("--firmware", metavar="FILE", type=FILE, help="Code of another UEFI build than the host's usual."),
    click.option("--firmware-vars", metavar="FILE", type=FILE, help="Variables that go with it."),
    click.option(
        "--timeout", "timeout_s", metavar="SECONDS", type=SECONDS,
        help="How long a run may take in all.",
    ),
    click.option("--tap", is_flag=True, help="Judge by TAP and KTAP, too: 1 where a test failed, 125 where none ran."),
)  # fmt: skip


def _junit(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """Return where results are to be written, if they can be."""
    if path is None:
        return None
    from orchestrator.kernel.junit import check_junit  # here: few runs want any

    check_junit(path)
    return path


junit_option = click.option(
    "--junit", metavar="FILE", type=FILE, callback=_junit, help="Write the results as a JUnit file."
)


def _without_dashes(_context: click.Context, _argument: click.Parameter, words: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command without the `--` before it, which click leaves where it stands behind another argument."""
    return words[1:] if words[:1] == ("--",) else words


def command_argument(function: _F) -> _F:
    """Add COMMAND, which takes all that follows."""
    argument = click.argument(
        "command", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED, callback=_without_dashes
    )
    return argument(function)
