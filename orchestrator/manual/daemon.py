"""guestlaunchd(8), made from the daemon's own options; and guestlaunch-hv(1)."""

from __future__ import annotations

import argparse

from orchestrator.manual.page import Entry, Lines, Page, Paragraph, Section, entry
from orchestrator.manual.reference import see_also

NAME = "guestlaunchd"

_DESCRIPTION = (
    Paragraph(
        "guestlaunchd launches appliances for the libguestfs programs of one user, or of root, until it is told to"
        " stop. Tools find it by its socket; without it, each serves itself. What it is for is speed: it stays"
        " connected to libvirt and keeps clones of templates ready, so that a launch takes a fraction of a second. It"
        " also shows what is launched: `guestlaunch status` and `top`, Prometheus, OpenTelemetry."
    ),
    Paragraph(
        "Under systemd it tells the service manager when it is ready; configs/systemd in the sources has a unit for"
        " users. It runs in the foreground."
    ),
    Paragraph(
        "It launches only with its client's very files: where both see different files, as in a container, the tool is"
        " served by a server of its own."
    ),
    Paragraph(
        "When another version of guestlaunch has been installed, it serves who is there to the end and launches for"
        " nobody else; then it ends with 75, so that the service manager starts the new one. Launches of the time"
        " between have servers of their own."
    ),
)

_SIGNALS = (
    entry(
        "`SIGTERM`, `SIGINT`, `SIGHUP`",
        "End: no client is accepted any more, guests are shut down, and what was made for them is removed. SIGHUP does"
        " nothing where it was ignored at the start, as nohup(1) does.",
    ),
    entry("`SIGKILL`", "Two watching processes end its guests and remove its files."),
)

_STATUS = (
    entry("`0`", "It was told to stop, and all guests ended in time."),
    entry("`1`", "It could not start, or a guest had to be left."),
    entry("`2`", "An option or a setting is wrong."),
    entry("`75`", "Another version has been installed, and its last client has gone."),
)


def page(parser: argparse.ArgumentParser) -> Page:
    """Return the daemon's page."""
    examples = (parser.epilog or "").partition(":\n")[2]
    return Page(
        name=NAME,
        number=8,
        about="launch appliances for many libguestfs programs, and keep clones ready",
        sections=(
            Section("SYNOPSIS", (Lines((f"{NAME} [OPTIONS]",)),)),
            Section("DESCRIPTION", _DESCRIPTION),
            Section("OPTIONS", tuple(map(_option, options(parser)))),
            Section("SIGNALS", _SIGNALS),
            Section("EXIT STATUS", _STATUS),
            Section(
                "FILES AND ENVIRONMENT",
                (
                    Paragraph(
                        "As guestlaunch(1) and guestlaunch.toml(5) have them. Also $NOTIFY_SOCKET, by sd_notify(3)."
                    ),
                ),
            ),
            Section("EXAMPLES", tuple(_examples(examples))),
            Section("SEE ALSO", (Paragraph(see_also(NAME)),)),
        ),
    )


def options(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the options that a person can use."""
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]  # noqa: SLF001 - argparse shows them nowhere else


def _option(action: argparse.Action) -> Entry:
    text = (action.help or "").strip()
    names = ", ".join(action.option_strings)
    return entry(f"{names} {action.metavar}" if action.metavar else names, f"{text[:1].upper()}{text[1:]}.")


def _examples(text: str) -> list[Entry]:
    """Return the examples of --help: a command line and, set off by spaces, what it does."""
    rows = [row.strip().partition("   ") for row in text.splitlines() if row.strip()]
    return [entry(f"`{command}`", f"{does.strip()[:1].upper()}{does.strip()[1:]}.") for command, _, does in rows]


def wrapper_page() -> Page:
    """Return the page of the program that libguestfs starts."""
    name = "guestlaunch-hv"
    return Page(
        name=name,
        number=1,
        about="stand for QEMU towards libguestfs, and launch through guestlaunch",
        sections=(
            Section("SYNOPSIS", (Lines((f"LIBGUESTFS_HV=/usr/bin/{name}", "LIBGUESTFS_BACKEND=direct")),)),
            Section(
                "DESCRIPTION",
                (
                    Paragraph(
                        "libguestfs starts this program, which LIBGUESTFS_HV names, where it would start QEMU. It"
                        " answers libguestfs's questions about QEMU, hands a launch with its arguments over to a"
                        " server, and then stands for the guest until that has ended. Nobody has to start it by hand:"
                        " `guestlaunch env` prints the variables that lead to it."
                    ),
                    Paragraph(
                        "The server is the one that GUESTLAUNCH_SOCKET names; else a guestlaunchd(8) of this user's or"
                        " of root's that runs; else one that is started for this launch alone. A server that sees other"
                        " files than the tool, as in a container, is passed over."
                    ),
                ),
            ),
            Section("ENVIRONMENT", (Paragraph("As guestlaunch(1) and guestlaunch.toml(5) have it."),)),
            Section(
                "EXIT STATUS",
                (
                    Paragraph(
                        "0 when the guest ended as libguestfs asked for it, else 1, with one line on standard error."
                    ),
                ),
            ),
            Section("SEE ALSO", (Paragraph(see_also(name)),)),
        ),
    )
