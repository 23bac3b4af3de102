"""QEMU's process as the kernel shows it: found by libvirt's pid file, held by a pidfd, reaped when it is ours.

libvirt notices QEMU's end by the monitor's end of file and then polls, 200 ms a time, until the process id is free. In
a container whose init reaps slowly, or never, that takes seconds; so QEMU is adopted at its start (`adopting`,
2026-11-22), and reaped here at once, which also yields its true exit status. So are the QEMUs that libvirt only asks
what they can do.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator import priority
from orchestrator.hypervisor.arrivals import Arrivals
from orchestrator.hypervisor.binding import libvirt

_PR_SET_CHILD_SUBREAPER = 36
_PROBE = "qmp"  # what libvirt's folders and files for a QEMU that it asks begin with
_NICE_ZERO = 20  # the RLIMIT_NICE with which a thread may go back to the nice value 0

_lock = threading.Lock()
_adoptions: set[int] = set()  # those under way, by id


def _set_subreaper(*, on: bool) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)


class Adoption:
    """Looks for the QEMU that libvirt is about to start, by its pid file: even one that dies at once is reaped.

    The file is written between fork and exec; one that was there before is of an earlier guest. libvirt may first
    start a QEMU to ask what it can do, which ends before the guest starts.

    :param probes: the folder in which libvirt makes a folder for each such QEMU.
    """

    def __init__(self, pid_file: Path, probes: Path) -> None:
        self._file = pid_file
        self._probes = probes
        self._probed: set[int] = set()
        self._before = self._identity()
        self._arrivals = Arrivals(pid_file.parent, probes)
        self._process: Process | None = None
        self._over = threading.Event()
        threading.Thread(target=self._look, name="qemu-adoption", daemon=True).start()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _look(self) -> None:
        try:
            self._look_until_found()
        finally:
            self._over.set()
            self._arrivals.close()

    def _look_until_found(self) -> None:
        written: set[str] | None = set()
        while written is not None and not self._find():
            if not written or any(name.startswith(_PROBE) for name in written):
                self._adopt_probes()
            written = self._arrivals.wait()

    def _adopt_probes(self) -> None:
        for folder in self._probes.glob(f"{_PROBE}-*"):
            self._arrivals.watch(folder)
            with contextlib.suppress(OSError, ValueError):
                pid = int((folder / f"{_PROBE}.pid").read_text())
                if pid not in self._probed:
                    self._probed.add(pid)
                    leader = os.getsid(pid)
                    probe = Process(pid)
                    probe.call_at_end(functools.partial(_let_go, probe, leader))

    def _find(self) -> bool:
        identity = self._identity()
        if identity is None or identity == self._before:
            return False
        try:
            self._process = Process(int(self._file.read_text()))
        except (OSError, ValueError):
            return False
        return True

    def finish(self) -> Process | None:
        """Stop looking and return what was found; call once libvirt's start has returned."""
        self._arrivals.stop()
        self._over.wait()
        if self._process is None:
            self._find()
        return self._process


def _let_go(probe: Process, leader: int) -> None:
    """Reap the process by which a QEMU that went into the background got its session; nobody else has waited for it."""
    if leader != probe.pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(leader, os.WNOHANG)
    probe.close()


@contextlib.contextmanager
def adopting(pid_file: Path, probes: Path) -> Iterator[Adoption]:
    """Make the QEMU that is started meanwhile our child; several threads may do so at once.

    It lasts only as long as libvirt starts a QEMU: other programs' daemons go to init as ever. See `Adoption`.
    """
    adoption = Adoption(pid_file, probes)
    with _lock:
        _adoptions.add(id(adoption))
        _set_subreaper(on=True)
    try:
        yield adoption
    finally:
        adoption.finish()
        with _lock:
            _adoptions.discard(id(adoption))
            _set_subreaper(on=bool(_adoptions))


def read_pid(files: tuple[Path, ...], domain: str) -> int | None:
    """Return the process id from the first of libvirt's pid files that names a living QEMU of this domain."""
    mark = b"guest=" + os.fsencode(domain.replace(",", ",,")) + b","
    for file in files:
        try:
            pid = int(file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if mark in command:
            return pid
    return None


class Process:
    """One QEMU process. `ended` is set as soon as it is dead; `exit_code` is known when it was our child."""

    def __init__(self, pid: int) -> None:
        """Hold the process.

        :raise OSError: it is gone already, or not ours to see.
        """
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.ended = threading.Event()
        self.exit_code: int | None = None
        self._on_end: Callable[[], None] | None = None
        self._closing = threading.Lock()
        self._watch = libvirt.virEventAddHandle(self.pidfd, libvirt.VIR_EVENT_HANDLE_READABLE, self._readable, None)

    def _readable(self, watch: int, _fd: int, _events: int, _opaque: object) -> None:
        """Reap it, on the event loop's thread, before libvirt starts to poll for its end."""
        libvirt.virEventRemoveHandle(watch)
        with contextlib.suppress(OSError):  # not our child
            status = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            if status is not None:
                killed = status.si_code != os.CLD_EXITED
                self.exit_code = 128 + status.si_status if killed else status.si_status
        self.ended.set()
        if self._on_end is not None:
            self._on_end()

    def call_at_end(self, function: Callable[[], None]) -> None:
        """Have function called when it ends, on the event loop's thread (at once, here, if it has ended)."""
        self._on_end = function
        if self.ended.is_set():
            function()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal; tell whether it was delivered (it may be dead already, or belong to another user)."""
        with self._closing:
            if self.pidfd < 0:
                return False
            try:
                signal.pidfd_send_signal(self.pidfd, number)
            except (ProcessLookupError, PermissionError):
                return False
            return True

    def set_nice(self, value: int) -> None:
        """Give all threads a nice value; nothing happens where we could not take it back (setpriority(2)).

        Root's processes have it as a session as well: from others the kernel takes that with a delay.
        """
        if os.geteuid() == 0:
            priority.set_session_nice(value or priority.session_nice(), self.pid)
        elif resource.getrlimit(resource.RLIMIT_NICE)[0] < _NICE_ZERO:
            return
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self.pid}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), value)

    def private_mib(self) -> int:
        """Return the memory that it shares with nobody, in MiB; 0 when that cannot be seen.

        Of another user's process, root sees the exact figure with CAP_SYS_PTRACE alone; else what no file is behind.
        """
        for file, field in (("smaps_rollup", "Private_Dirty:"), ("status", "RssAnon:")):
            with contextlib.suppress(OSError, ValueError):
                for line in Path(f"/proc/{self.pid}/{file}").read_text(encoding="ascii").splitlines():
                    if line.startswith(field):
                        return int(line.split()[1]) // 1024
        return 0

    def close(self) -> None:
        """Let go of the process."""
        with self._closing:
            if not self.ended.is_set():
                libvirt.virEventRemoveHandle(self._watch)
            if self.pidfd >= 0:
                os.close(self.pidfd)
            self.pidfd = -1
