"""guestlaunchd: the program. Arguments in, a server on a public socket (or one inherited connection) out."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from orchestrator import __version__, surroundings
from orchestrator.daemon import listen
from orchestrator.errors import GuestlaunchError, UsageError, nearest
from orchestrator.program import guarded
from orchestrator.settings import Settings, load
from orchestrator.wrapper import connect, protocol

_ANSWER_SECONDS = 10.0

_EPILOG = """examples:
  guestlaunchd                            serve this user's tools on $XDG_RUNTIME_DIR/guestlaunch/guestlaunchd.sock
  guestlaunchd --config /etc/site.toml    the same, with a site's settings
  guestlaunchd --standby 4                keep four clones of templates ready for each kind of launch; 0 for none
  guestlaunchd --socket /srv/gl/sock --log -   another socket; events as JSON lines on stderr
  guestlaunchd --metrics-listen 127.0.0.1:9177   also show what is launched to Prometheus
"""


class _Parser(argparse.ArgumentParser):
    """Parses our arguments; a mistake is one line, like all our errors."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        word = message.rpartition(": ")[2].split(" ")[0].split("=")[0]
        raise UsageError("bad arguments", "", message, nearest(word, known) or "see guestlaunchd --help")


def main() -> int:
    """Run guestlaunchd; return its exit status. Started by nohup, it outlives its terminal."""
    surroundings.settle_server(keep=(signal.SIGHUP,))
    return guarded("guestlaunchd", lambda: run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Serve until told to stop.

    :raise GuestlaunchError: when it cannot start.
    """
    options = parser().parse_args(argv)
    names = ("log", "state_dir", "connect", "standby", "metrics_listen", "otlp_endpoint")
    overrides = {name: getattr(options, name) for name in names}
    if options.serve_fd is not None:
        return _serve_inherited(_inherited(options.serve_fd), lambda: load(config=options.config, overrides=overrides))
    settings = load(config=options.config, overrides=overrides)
    path = (Path(surroundings.working_directory()) / options.socket) if options.socket else None
    surroundings.leave_directory()
    if path is None:
        path, looked_for = settings.runtime_dir / listen.SOCKET_NAME, connect.default_sockets(os.environ)
    else:
        looked_for = [os.fspath(path)]
    return _serve_publicly(path, settings, options.lifeline, known=os.fspath(path) in looked_for)


def _serve_inherited(sock: socket.socket, settings: Callable[[], Settings]) -> int:
    """Serve the one client that started us; if we cannot, the reason is its answer."""
    try:
        own = settings()
        surroundings.leave_directory()
        from orchestrator.daemon.service import Role, serve  # here: what libvirt lacks must not break --help

        return serve(Role.INHERITED, sock, own)
    except GuestlaunchError as error:
        if not _tell(sock, str(error)):
            raise
        return error.exit_status
    except Exception as error:
        _tell(sock, f"cannot start the orchestrator: internal error: {error!r} (this is a bug)")
        raise


def _tell(sock: socket.socket, text: str) -> bool:
    """End a client with a reason; tell whether it was there to hear it. One that was served has hung up."""
    try:
        with sock:
            protocol.send(sock, protocol.exit_message(1, text), deadline=time.monotonic() + _ANSWER_SECONDS)
    except (OSError, GuestlaunchError):
        return False
    return True


def _serve_publicly(path: Path, settings: Settings, lifeline: int | None, *, known: bool) -> int:
    """Serve whoever connects to a path.

    :param known: tools look there by themselves, or whoever named the path knows of it.
    """
    from orchestrator.daemon.server import REPLACED  # here: as above
    from orchestrator.daemon.service import Role, serve

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen.public(path))

        def ready() -> None:
            notify(os.environ, f"READY=1\nSTATUS=listening on {path}")
            sys.stderr.write(f"guestlaunchd: listening on {path} (pid {os.getpid()})\n")
            if not known:
                sys.stderr.write(f"guestlaunchd: tools do not look there: set GUESTLAUNCH_SOCKET={path} for them\n")

        def leaving() -> None:
            notify(os.environ, f"STATUS={REPLACED}: serving who is there to the end")
            sys.stderr.write(f"guestlaunchd: {REPLACED}: ending with the last client\n")
            stack.close()

        def stopping() -> None:
            notify(os.environ, "STOPPING=1")
            stack.close()  # the socket goes first: tools that start from now on find their own server

        return serve(
            Role.PUBLIC,
            listener,
            _for_clients(settings),
            ready=ready,
            leaving=leaving,
            stopping=stopping,
            lifeline=lifeline,
        )


def _for_clients(settings: Settings) -> Settings:
    """Return settings that hold for every client: "-" would mix their timelines into our own output."""
    return replace(settings, timeline=None) if settings.timeline == "-" else settings


def parser() -> argparse.ArgumentParser:
    """Return what reads our arguments; the manual is made from it."""
    made = _Parser(
        prog="guestlaunchd",
        description="Launches appliances for libguestfs tools (through guestlaunch-hv) until told to stop.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--socket", metavar="PATH", help="listen there instead of in the runtime directory")
    made.add_argument("--config", metavar="FILE", type=Path, help="settings file")
    made.add_argument("--state-dir", metavar="DIR", help="appliances, logs and libvirt's private files")
    made.add_argument("-c", "--connect", metavar="URI", help="connection to libvirt, for launches that name none")
    made.add_argument("--log", metavar="FILE", help="where events go; - is stderr")
    made.add_argument("--standby", metavar="N", help="keep N clones ready for each kind of launch (default: 1)")
    made.add_argument("--metrics-listen", metavar="HOST:PORT", help="answer Prometheus there, at /metrics")
    made.add_argument("--otlp-endpoint", metavar="URL", help="send launches as traces to that collector")
    made.add_argument("--serve-fd", metavar="N", type=int, help="serve one inherited connection, then end")
    made.add_argument("--lifeline", metavar="N", type=int, help="end when an inherited pipe does")
    made.add_argument("--version", action="version", version=f"guestlaunchd {__version__}")
    return made


def _inherited(descriptor: int) -> socket.socket:
    """Return the connection that a wrapper left us.

    :raise UsageError: when the descriptor is no connected socket.
    """
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise UsageError("bad arguments", f"--serve-fd {descriptor}", "not a socket")
        os.set_inheritable(descriptor, False)
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(socket.socket(fileno=descriptor))
            sock.getpeername()
            stack.pop_all()
    except (OSError, OverflowError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError("bad arguments", f"--serve-fd {descriptor}", str(why).lower()) from error
    return sock


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell the service manager, if there is one (sd_notify(3): a datagram to $NOTIFY_SOCKET)."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(state.encode())


if __name__ == "__main__":
    sys.exit(main())
