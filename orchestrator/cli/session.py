"""One command's use of a server: the daemon that runs, or one of its own; and what its launches came to."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.cli.main import PROGRAM
from orchestrator.daemon import client, own_server
from orchestrator.daemon.client import Finished, LaunchFeed
from orchestrator.errors import ProtocolError
from orchestrator.program import complain
from orchestrator.settings import Settings
from orchestrator.values import dataclass
from orchestrator.workload.environment import ToolEnvironment, tool_environment
from orchestrator.wrapper import connect

if TYPE_CHECKING:
    from orchestrator.records.record import LaunchEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A server to launch with.

    :ivar environment: for the programs that launch.
    """

    watch: LaunchFeed
    environment: ToolEnvironment
    settings: Settings

    def finished(self, seconds: float = 0.0) -> list[Finished]:
        """Return the launches that ended since the last call."""
        return list(self.watch.finished(seconds))


@contextlib.contextmanager
def opened(settings: Settings, *, verbose: bool = False) -> Iterator[Session]:
    """Find or start a server, and prepare the environment of the programs that launch through it.

    Warnings about the user's own variables go to stderr.

    :raise GuestlaunchError: no usable appliance, wrapper or runtime directory.
    """
    # "-" is this command's own stdout, which no server has: the watch brings the records here.
    passed = replace(settings, timeline=None) if settings.timeline == "-" else settings
    checked = tool_environment(os.environ, passed)  # before anything is started: most mistakes show here
    for line in checked.warnings:
        complain(PROGRAM, f"warning: {line}")
    with _server(settings, verbose=verbose) as (path, watch, own):
        environment = tool_environment(os.environ, passed, socket=path, client=watch.token, own_server=own)
        yield Session(watch=watch, environment=environment, settings=settings)


@contextlib.contextmanager
def _server(settings: Settings, *, verbose: bool) -> Iterator[tuple[Path, LaunchFeed, bool]]:
    """Yield the socket and watch of the server to use, and whether it is this command's own."""
    connect.forget_ended_server(os.environ)
    named = os.environ.get("GUESTLAUNCH_SOCKET")
    path, why = (Path(named), "") if named else client.find(settings, os.environ)
    with contextlib.ExitStack() as stack:
        watch, own = None, False
        if path is not None:
            try:
                watch = stack.enter_context(LaunchFeed(path))
                watch.require_accepted()
            except ProtocolError as error:
                if named:
                    raise
                path, why = None, str(error)  # as good as none
                stack.close()
        if verbose:
            complain(PROGRAM, f"launching through {path}" if path else f"launching by itself: {why}")
        if path is None or watch is None:
            path, watch = stack.enter_context(own_server.serving(settings))
            own = True
        yield path, watch, own


def report(finished: list[Finished], settings: Settings, *, as_json: bool) -> None:
    """Say what the tool could not: why a launch failed; and write timelines that were asked for on stdout.

    They are drawn where stdout is a terminal, unless JSON was asked for.
    """
    for launch in finished:
        if launch.message:
            complain(PROGRAM, launch.message)
        if settings.timeline == "-" and launch.record is not None:
            if as_json or not sys.stdout.isatty():
                write_timeline(settings, launch.record)
            else:
                from orchestrator.cli import render  # here: brings rich

                render.show_timeline(launch.record)


def write_timeline(settings: Settings, record: LaunchEvent) -> None:
    """Write a launch's canonical line where `--timeline` says, if it does."""
    if settings.timeline is not None:
        from orchestrator.records import log  # here: most commands write none

        log.write_timeline(settings.timeline, record)
