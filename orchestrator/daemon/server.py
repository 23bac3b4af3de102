"""Takes in clients and serves each on a thread of its own, until told to stop. What they may ask for is in `requests`.

The same server runs in guestlaunchd, behind a command's private socket, and on the one inherited connection
of `guestlaunchd --serve-fd`. Sockets are made by `daemon.listen`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

from orchestrator.daemon.requests import Requests, tell
from orchestrator.launch.stop import Stop
from orchestrator.records.log import EventLog
from orchestrator.wrapper import protocol

# A private server that nobody ever connects to belongs to a command that died early.
_FIRST_CLIENT_SECONDS = 60.0
REPLACED = "another version of guestlaunch has been installed"


class Server:
    """Serves clients until told to stop.

    :param requests: answers each of them.
    :param log: where the server's own events go.
    """

    def __init__(self, requests: Requests, log: EventLog) -> None:
        self._requests, self._log = requests, log
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._served = False
        self._changed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def serve(
        self,
        listener: socket.socket | None,
        stop: Stop,
        *,
        ends_with_last_client: bool = False,
        ending: Callable[[], None] = lambda: None,
        replaced: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Accept connections until stop is requested.

        :param listener: None when all clients are adopted ones.
        :param ends_with_last_client: also return once the last client has gone.
        :param ending: called before that, so that nobody connects any more; who has just connected is still served.
        :param replaced: whether this program is no longer the one that is installed; asked when somebody connects.
        :return: True when it is not: who has just connected was sent to a server of their own, who is served still is.
        """
        with selectors.DefaultSelector() as selector:
            for readable in (stop, self._changed):
                selector.register(readable, selectors.EVENT_READ)
            if listener is not None:
                listener.setblocking(False)
                selector.register(listener, selectors.EVENT_READ)
            while not stop.requested:
                if ends_with_last_client and self._last_has_gone():
                    ending()
                    if listener is None or not self._accept(listener, self.adopt):
                        return False
                for key, _ in selector.select(timeout=1.0 if ends_with_last_client else None):
                    if listener is not None and key.fileobj is listener:
                        if replaced():
                            self._give_way(listener, ending)
                            return True
                        self._accept(listener, self.adopt)
                    elif key.fileobj == self._changed:
                        with contextlib.suppress(BlockingIOError):
                            os.eventfd_read(self._changed)
        return False

    def adopt(self, sock: socket.socket) -> None:
        """Serve a connection in a thread of its own; the socket is ours from now on."""
        thread = threading.Thread(target=self._thread, args=(sock,), name="client", daemon=True)
        try:
            with self._lock:  # nobody finds a thread that cannot be waited for yet
                self._served = True
                thread.start()
                self._threads.add(thread)
        except RuntimeError:  # the system has no more threads for us
            with sock:
                tell(sock, protocol.exit_message(1, "guestlaunchd is busy: no thread can be started") | {"busy": True})

    def close(self, reason: str, seconds: float) -> bool:
        """End the launches under way and wait for them.

        :param seconds: how long to wait in all.
        :return: False when some launch had not ended by then.
        """
        deadline = time.monotonic() + seconds
        self._requests.end(reason)
        with self._lock:
            threads = list(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _last_has_gone(self) -> bool:
        with self._lock:
            if self._threads:
                return False
            return self._served or time.monotonic() - self._started > _FIRST_CLIENT_SECONDS

    def _accept(self, listener: socket.socket, take: Callable[[socket.socket], None]) -> bool:
        """Take in a client; tell whether there was one."""
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            return False
        except OSError as error:  # the client has gone again, or we are out of descriptors
            self._log.emit("accept_failed", level="warning", error=error.strerror)
            time.sleep(0.01)  # EMFILE would otherwise make this a busy loop
            return True
        sock.setblocking(True)
        take(sock)
        return True

    def _give_way(self, listener: socket.socket, ending: Callable[[], None]) -> None:
        """Have whoever has connected start a server of their own, which runs what is installed."""
        self._log.emit("replaced", reason=REPLACED)
        with listener.dup() as last:  # the end of its name may be the listener's
            ending()
            while self._accept(last, _send_away):
                pass

    def _thread(self, sock: socket.socket) -> None:
        try:
            self._requests.serve(sock)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            os.eventfd_write(self._changed, 1)


def _send_away(sock: socket.socket) -> None:
    with sock:
        tell(sock, protocol.exit_message(1, f"guestlaunchd ends: {REPLACED}") | {"elsewhere": True})
