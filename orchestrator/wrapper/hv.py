"""guestlaunch-hv: the program that libguestfs starts in QEMU's place (`LIBGUESTFS_HV`).

An argument list with `-kernel` is a launch: it goes, with this process's standard descriptors, to the
orchestrator, and this process then stands for the guest until the orchestrator says how it ended. Anything
else is one of libguestfs's probes (`orchestrator.wrapper.probe`). Arguments are not understood here
(`orchestrator.wrapper.argv` does that, on the orchestrator's side).

This is the launch path: only light modules of the standard library are imported before the launch is sent.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

from orchestrator import surroundings
from orchestrator.wrapper import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence
    from typing import Any, NoReturn

_STARTED_NS = time.monotonic_ns()  # where a launch's first phase begins
_SEND_SECONDS = 10.0
_MESSAGE_SECONDS = 10.0  # from a message's first byte to its last
_TERMINATE_SECONDS = 60.0
_SEEN_OFF_SECONDS = 5.0  # for an orchestrator of this launch's own to clear up after it
_PARENT = os.getppid()
# A server that is busy is asked again so often and so long, and after some seconds the user learns why nothing happens.
_AGAIN_SECONDS = 0.5
_TELL_SECONDS = 3.0
_TURN_SECONDS = 30.0
# A daemon asks at once which files are meant; one that is stopped, or kept from running, says nothing.
_SILENT_SECONDS = 4.0

# What the orchestrator may need to know of the caller: its own settings, and what QEMU's network block drivers
# take from their environment.
_ENV_PREFIXES = ("GUESTLAUNCH_", "LIBGUESTFS_")
_ENV_NAMES = frozenset((
    "HOME", "USER", "LOGNAME", "TMPDIR", "TERM",
    "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
    "SSH_AUTH_SOCK", "CEPH_CONF", "CEPH_ARGS", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
    "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
))  # fmt: skip


def main() -> NoReturn:
    """Run the program and end the process.

    It ends by `os._exit`: nothing is left to finalise, and variables such as PYTHONINSPECT must not keep it alive.
    """
    status = 1
    try:
        surroundings.settle()
        status = run(sys.argv[1:])
    except OSError as error:
        _complain(f"guestlaunch-hv: {error}")
    except Exception as error:  # noqa: BLE001 - the boundary: libguestfs gets one line, never a traceback
        _complain(str(error) or type(error).__name__)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        status = status or 1
    os._exit(status)


def run(argv: Sequence[str]) -> int:
    """Answer a probe or carry out a launch; return the exit status.

    :raise GuestlaunchError: the orchestrator could not be reached or understood.
    """
    if "-kernel" in argv:
        return launch(argv)
    from orchestrator.wrapper import probe

    return probe.answer(argv)


def launch(argv: Sequence[str]) -> int:
    """Send a launch to the orchestrator and wait for its end; return QEMU's exit status as told."""
    wake = _catch_signals()
    from orchestrator.wrapper import connect

    sock = connect.orchestrator(os.environ)
    try:
        if _told_to_end(wake):
            return 0  # before anything was started, as QEMU would
        message = protocol.launch_message(argv, surroundings.working_directory(), _selected(os.environ))
        message["started_ns"] = _STARTED_NS
        outcome = _ask(sock, message, wake)
        if outcome.get("busy") is True:
            sock, outcome = _wait_for_a_turn(sock, outcome, message, wake)
        if outcome.get("elsewhere") is True and connect.is_shared(sock):
            # That server sees other files than we do (a container, a chroot): one of our own sees ours.
            _complain(f"{outcome.get('message')}: guestlaunch-hv starts its own", loud=False)
            sock.close()
            os.environ.pop("GUESTLAUNCH_QUIET", None)  # whoever set it watches the other server
            sock = connect.own(os.environ)
            outcome = _ask(sock, message, wake)
    finally:
        sock.close()
        connect.see_off(_SEEN_OFF_SECONDS)
    return _finish(outcome)


def _ask(sock: socket.socket, message: Mapping[str, Any], wake: int) -> dict[str, Any]:
    """Ask for the launch and return how it ended."""
    from orchestrator.wrapper import connect

    _send(sock, message, (0, 1, 2))
    return _await_exit(sock, wake, explained=connect.is_a_daemons(sock, os.environ))


def _wait_for_a_turn(
    sock: socket.socket, outcome: dict[str, Any], message: Mapping[str, Any], wake: int
) -> tuple[socket.socket, dict[str, Any]]:
    """Ask a busy server again and again; when that takes too long, have an orchestrator of our own.

    Return the connection that was asked last, and what came of it.
    """
    from orchestrator.wrapper import connect

    began, told = time.monotonic(), False
    while outcome.get("busy") is True:
        sock.close()
        waited = time.monotonic() - began
        if waited >= _TURN_SECONDS:
            _complain(f"{outcome.get('message')}: guestlaunch-hv starts its own", loud=False)
            os.environ.pop("GUESTLAUNCH_QUIET", None)  # whoever set it watches the other server
            sock = connect.own(os.environ)
            return sock, _ask(sock, message, wake)
        if waited >= _TELL_SECONDS and not told:
            told = True
            _complain(f"{outcome.get('message')}: waiting for a turn")
        if select.select([wake], [], [], _AGAIN_SECONDS)[0] and _told_to_end(wake):
            return sock, protocol.exit_message(0)  # nothing was started, as above
        sock = connect.orchestrator(os.environ)
        outcome = _ask(sock, message, wake)
    return sock, outcome


def _send(sock: socket.socket, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
    """Send message, unless the server has closed the connection after an answer that is still to be read."""
    try:
        protocol.send(sock, message, fds, time.monotonic() + _SEND_SECONDS)
    except Exception:
        # Losing the answer (a refusal, the guest's own exit status) for the sake of EPIPE would be wrong.
        if not select.select([sock], [], [], 0)[0]:
            raise


def _selected(env: Mapping[str, str]) -> dict[str, str]:
    """Return the part of the environment that the orchestrator is told."""
    return {key: value for key, value in env.items() if key.startswith(_ENV_PREFIXES) or key in _ENV_NAMES}


def _catch_signals() -> int:
    """Turn SIGTERM, SIGINT and SIGHUP into bytes in a pipe; return its read end.

    The bytes are written by the C handler, so that no signal is lost between a check and a wait.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return read_end


def _told_to_end(wake: int) -> bool:
    """Return whether a signal has arrived, and forget it."""
    try:
        return bool(os.read(wake, 512))
    except BlockingIOError:
        return False


def _await_exit(sock: socket.socket, wake: int, *, explained: bool) -> dict[str, Any]:
    """Return the server's "exit" message; pass on, once, that we were told to end.

    A workload lasts as long as its user wants, so this wait has no deadline until termination was asked for.

    :param explained: say it, once, when nothing comes from the server at first.
    """
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(wake, select.POLLIN)
    deadline: float | None = None
    silent_until = time.monotonic() + _SILENT_SECONDS if explained else None
    while True:
        due = min((moment for moment in (deadline, silent_until) if moment is not None), default=None)
        left_ms = None if due is None else max(0.0, due - time.monotonic()) * 1000
        ready = {fd for fd, _ in poll.poll(left_ms)}
        if sock.fileno() in ready:
            silent_until = None
            message = _next_message(sock)
            if message["type"] == "exit":
                return message
            if message["type"] == "files":
                _send(sock, protocol.files_message(message["names"]))
            if message["type"] == "notice" and isinstance(message.get("message"), str):
                _complain(message["message"], always=True)
        if wake in ready and _told_to_end(wake) and deadline is None:
            deadline = time.monotonic() + _TERMINATE_SECONDS
            _send(sock, {"type": "terminate"})
        if silent_until is not None and time.monotonic() >= silent_until:
            silent_until = None
            _complain(_silence(sock), always=True)
        if deadline is not None and time.monotonic() >= deadline:
            return protocol.exit_message(1, f"the guest did not end within {_TERMINATE_SECONDS:.0f} s of SIGTERM")


def _silence(sock: socket.socket) -> str:
    """Return what is to be said of a daemon from which nothing comes."""
    from orchestrator import sockets

    pid, _ = sockets.peer(sock)
    return (
        f"waiting for guestlaunchd: pid {pid}: no answer for {_SILENT_SECONDS:g} s (the launch goes on when it answers)"
    )


def _next_message(sock: socket.socket) -> dict[str, Any]:
    """Return the message that has begun to arrive; a server that died counts as one that failed."""
    try:
        message, fds = protocol.receive(sock, time.monotonic() + _MESSAGE_SECONDS)
    except EOFError:
        return protocol.exit_message(1, "the orchestrator ended before the guest did (its log has the reason)")
    for fd in fds:
        os.close(fd)
    return message


def _finish(message: Mapping[str, Any]) -> int:
    """Report and return the outcome; end by a signal if that is how QEMU ended."""
    number, status = message.get("signal"), message.get("status", 1)
    text = message.get("message")
    if isinstance(text, str) and text:
        _complain(text, loud=bool(number or status))
    if isinstance(number, int) and 0 < number < signal.NSIG:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # QEMU's core is of interest, ours is not
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return status if isinstance(status, int) and 0 <= status <= 255 else 1


def _complain(text: str, *, loud: bool = True, always: bool = False) -> None:
    """Write one line to stderr and, if loud, to the tool's own stderr as well.

    libguestfs captures our stderr and shows it only when verbose: without the second line a user would not
    learn the reason. GUESTLAUNCH_QUIET=1 is set by a guestlaunch command that shows errors itself; what is to be
    known while a launch lasts is `always` shown.
    """
    line = text if text.startswith("guestlaunch") else f"guestlaunch: {text}"
    data = " ".join(line.splitlines()).encode("utf-8", "backslashreplace") + b"\n"
    _write(2, data)
    if loud and (always or os.environ.get("GUESTLAUNCH_QUIET") != "1"):
        parent = os.getppid()
        if parent == _PARENT:  # else the tool has ended, and this is who takes in what it leaves: not a reader of ours
            from orchestrator.wrapper.parent import tell

            tell(parent, data)


def _write(fd: int, data: bytes) -> None:
    """Write data if somebody listens; if not, the exit status still tells."""
    try:  # noqa: SIM105 - contextlib costs more to import than this module may take
        os.write(fd, data)
    except OSError:
        pass
