"""guestlaunch install: a system installed from a distribution's tree, and booted once from its disk."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click

from orchestrator.cli.kernel.terminal import ESCAPE, SIGNAL_BASE, raw_terminal, stopping
from orchestrator.cli.main import PROGRAM
from orchestrator.cli.options import (
    SECONDS,
    collected,
    examples,
    json_option,
    print_json,
    settings_options,
    verbose_option,
)
from orchestrator.domain.model import Arch, GraphicsKind
from orchestrator.errors import GuestlaunchError, UsageError
from orchestrator.install.answers import Answers
from orchestrator.install.request import InstallRequest
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.timeline.durations import duration
from orchestrator.vm.request import size_of

if TYPE_CHECKING:  # libvirt comes with them
    from orchestrator.install.download import Progress
    from orchestrator.install.run import Installed
    from orchestrator.kernel.console_file import ConsoleFile
    from orchestrator.kernel.start import Attached
    from orchestrator.records.record import LaunchRecord

_FILE = click.Path(path_type=Path)


def size_option(about: str) -> Callable[[Any], Any]:
    """Return the option that says how large a disk is."""
    return click.option("--size", "size_bytes", metavar="N[M|G|T]", callback=_size, help=about)


def _size(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    """Return bytes; a unit is a power of 1024."""
    if text is None:
        return None
    try:
        return size_of(text)
    except ValueError as error:
        raise UsageError("cannot understand", f"--size {text}", f"not {error}") from error


def _request(**given: Any) -> InstallRequest:  # noqa: ANN401 - the options below
    kernel, initrd = given["kernel"], given["initrd"]
    if (kernel is None) is not (initrd is None):
        raise UsageError("nothing to install from", kernel or initrd, "--kernel and --initrd belong together")
    answers = Answers(
        preseed=_absolute(given["preseed"]),
        kickstart=_absolute(given["kickstart"]),
        autoinstall=_absolute(given["autoinstall"]),
        inject=tuple(path.absolute() for path in given["inject"]),
    )
    return InstallRequest(
        location=given["location"],
        files=None if kernel is None else (kernel.absolute(), initrd.absolute()),
        arch=Arch(given["arch"]) if given["arch"] else None,
        disks=tuple(path.absolute() for path in given["disks"]),
        size_bytes=given["size_bytes"],
        nvram=_absolute(given["nvram"]),
        cmdline=given["cmdline"],
        answers=answers,
        verify=not given["unverified"],
        keyrings=tuple(path.absolute() for path in given["keyrings"]),
        graphics=None if given["graphics"] == "none" else GraphicsKind(given["graphics"]),
        network=not given["no_network"],
        timeout_s=given["timeout_s"],
        boot_timeout_s=given["boot_timeout_s"],
        keep=given["keep"],
    )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


_options = collected(
    "request",
    _request,
    click.option(
        "--location", metavar="LOCATION", default="", help="Tree: a folder, an ISO image, an address, deb:PACKAGE."
    ),
    click.option("--kernel", metavar="FILE", type=_FILE, help="The installer's kernel, instead of a tree's."),
    click.option("--initrd", metavar="FILE", type=_FILE, help="The installer's initrd, likewise."),
    click.option("--arch", type=click.Choice([str(arch) for arch in Arch]), help="Of a tree that is for several."),
    click.option("--disk", "disks", metavar="FILE", type=_FILE, multiple=True, help="Disk; the first one boots."),
    size_option("Make disks that are not there, so large."),
    click.option(
        "--nvram", metavar="FILE", type=_FILE, help="Where the firmware's variables stay; DISK.nvram.fd by default."
    ),
    click.option("--cmdline", metavar="TEXT", default="", help="More for the installer's command line."),
    click.option("--preseed", metavar="FILE", type=_FILE, help="Answers for Debian's installer."),
    click.option("--kickstart", metavar="FILE", type=_FILE, help="Answers for Anaconda."),
    click.option("--autoinstall", metavar="FILE", type=_FILE, help="User data for Ubuntu's installer."),
    click.option(
        "--inject", metavar="FILE", type=_FILE, multiple=True, help="File for the initrd's top; can be repeated."
    ),
    click.option("--unverified", is_flag=True, help="Take a tree that nothing speaks for, too."),
    click.option(
        "--keyring", "keyrings", metavar="FILE", type=_FILE, multiple=True, help="Keys one of which must have signed."
    ),
    click.option(
        "--graphics", type=click.Choice([*map(str, GraphicsKind), "none"]), default="none", show_default=True,
        help="Installer and system have a display as well; how to look at it is said.",
    ),
    click.option("--no-network", is_flag=True, help="Neither installer nor system has a network."),
    click.option(
        "--timeout", "timeout_s", metavar="SECONDS", type=SECONDS, default=7200.0, show_default=True,
        help="How long the installer may take.",
    ),
    click.option(
        "--boot-timeout", "boot_timeout_s", metavar="SECONDS", type=SECONDS, default=600.0, show_default=True,
        help="How long the first boot may take.",
    ),
    click.option("--keep", is_flag=True, help="Leave disk and NVRAM that were made, if the installation fails."),
)  # fmt: skip


@click.command(
    short_help="Install a system from a distribution's tree, and boot it once.",
    epilog=examples(
        "guestlaunch install --location deb:debian-installer-12-netboot-arm64 --preseed auto.cfg --disk d.qcow2 "
        "--size 8G",
        "guestlaunch install --location https://deb.debian.org/debian/dists/bookworm --arch aarch64 --disk d.img",
        "guestlaunch install --location Fedora-Server.iso --kickstart ks.cfg --disk d.qcow2 --size 20G",
        "guestlaunch install --location ubuntu.iso --unverified --autoinstall user-data --disk d.img --size 20G",
        "guestlaunch install -c qemu:///system --name vm1 --location TREE --kickstart ks.cfg --disk /srv/vm1.qcow2",
    ),
)
@settings_options
@_options
@click.option(
    "--name", metavar="NAME", help="Define the system in libvirt on --connect under this name; that stays if it boots."
)
@click.option(
    "--console", "console_file", metavar="FILE", type=_FILE, help="Keep what installer and system say on their console."
)
@json_option
@verbose_option
def install(
    *, settings: Settings, request: InstallRequest, name: str | None, console_file: Path | None, as_json: bool,
    verbose: bool,
) -> int:  # fmt: skip
    """Install a system on a disk, from the kernel and initrd of a distribution's tree, and boot it once from there.

    The firmware loads the installer over fw_cfg, as it does kernels that are tried. Only what checksums, a signature
    or apt speak for is started. The installation counts as done once the installer says so itself, by a record that
    the answers are made to leave (guestlaunch help install), and has ended in order; then the disk boots alone, with
    the firmware's variables as the installer left them, until it asks for a login. Its power button is pressed, and
    what was installed and how long each phase took is shown. Anything else is a failure, which names its phase.

    An installer of your own finds /guestlaunch/record in its initrd, a shell script: `sh /guestlaunch/record 0` says
    that all went well, any other number that it did not. A system without a login prompt on its serial port may write
    the line guestlaunch-ready to the virtio-serial port org.guestlaunch.control.0.

    On a terminal, the installer has it; Ctrl-] ends the installation. With --graphics there is a display as well, at a
    unix socket of the user's own.
    """
    from orchestrator.kernel.console_file import ConsoleFile

    request.check(*ConsoleFile.names(console_file))
    from orchestrator.install.run import carry_out
    from orchestrator.workload import installed_domain

    definition = None if name is None else installed_domain.definition(name, request, settings)
    terminal = os.isatty(0) and os.isatty(1) and not as_json
    with contextlib.ExitStack() as stack:
        stop, came = stack.enter_context(stopping())
        kept = stack.enter_context(ConsoleFile(console_file)) if console_file is not None else None
        progress = stack.enter_context(_DownloadLine())
        try:
            done = carry_out(
                request, settings, stop, attached=_attached(terminal=terminal, kept=kept),
                console=(0, 1) if terminal else (-1, 2) if verbose else None,
                terminal=raw_terminal if terminal else contextlib.nullcontext, progress=progress.show,
                tell=lambda text: complain(PROGRAM, text),
                definition=definition,
            )  # fmt: skip
        except GuestlaunchError:
            if came:
                return SIGNAL_BASE + came[0]
            raise
    _tell(done, request, as_json=as_json)
    if name is not None and (done.good or request.keep):
        complain(PROGRAM, f"{name}: defined on {settings.connect}")
    if came:
        return SIGNAL_BASE + came[0]
    return 0 if done.good else GuestlaunchError.exit_status


def _attached(*, terminal: bool, kept: ConsoleFile | None) -> Attached:
    from orchestrator.kernel.start import Attached

    return Attached(take_console=None if kept is None else kept.write, escape=ESCAPE if terminal else None)


class _DownloadLine:
    """Shows how far downloads are, on a terminal."""

    def __init__(self) -> None:
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\n")

    def show(self, progress: Progress) -> None:
        """Show it."""
        if not os.isatty(2):
            return
        of = f" of {progress.total / 1e6:.1f}" if progress.total else ""
        sys.stderr.write(f"\r{progress.name}: {progress.done / 1e6:.1f}{of} MB ")
        sys.stderr.flush()
        self._shown = True


def _tell(done: Installed, request: InstallRequest, *, as_json: bool) -> None:
    """Say what came of it."""
    from orchestrator.records.record import to_event

    last = done.steps[-1]
    if as_json:
        print_json({"installed": done.good, "steps": [to_event(step) for step in done.steps]})
    if not done.good:
        complain(PROGRAM, last.error or "the installation was ended")
        if not as_json:
            for line in last.console_tail:
                sys.stderr.write(f"  | {line}\n")
        return
    if not as_json:
        for line in summary(done.steps):
            click.echo(line)
        click.echo(f"installed, and boots: {request.disks[0]} with {request.kept_nvram}")


def summary(steps: tuple[LaunchRecord, ...]) -> list[str]:
    """Return a line for each step: how long it took, and by what it is known to be done."""
    from orchestrator.records.record import to_event

    lines = []
    for step in steps:
        said = step.install
        assert said is not None  # each step has one
        if said.fetched_bytes:
            lines.append(f"fetched     {duration(said.fetch_ns):>9}  {said.fetched_bytes / 1e6:.1f} MB")
        event = to_event(step)
        moved = event["transfer_ns"]
        more = [f"transfer {duration(moved)}"] if moved else []
        more += [said.boot_entry] if said.boot_entry else []
        more += [f"told by {said.told_by}"] if said.told_by else []
        lines.append(f"{said.step.replace('_', ' '):<11} {duration(step.total_ns):>9}  {', '.join(more)}")
    return lines
