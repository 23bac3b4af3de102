"""Web servers on the host, and how a guest that has a network asks one without any program for that."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder's files, several to a connection, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve on a port of the loopback interface, which slirp's gateway address leads to; yields the port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def web_server(answer: bytes) -> Iterator[int]:
    """Serve one answer."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as port:
        yield port


def fetching(port: int) -> str:
    """Return a script for bash in a guest that prints the last line of what the server answers."""
    return f"exec 3<>/dev/tcp/169.254.2.2/{port}\nprintf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3\ntail -n 1 <&3\n"
