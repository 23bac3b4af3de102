"""Shows a registry at an HTTP address, by prometheus_client's own server. Counting is `metrics`'s job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, start_http_server

from orchestrator.errors import CapabilityError, SettingsError

JOIN_SECONDS = 5.0


def parse_address(address: str) -> tuple[str, int]:
    """Split `HOST:PORT`, `[IPv6]:PORT` or `:PORT` (this host only); port 0 means any free one.

    :raise SettingsError: when it is none of these.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise SettingsError("not an address", address, "expected HOST:PORT", "for example 127.0.0.1:9464")
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise SettingsError("not an address", address, f"'{port}' is not a port from 0 to 65535")
    # Metrics tell what runs on this host: other hosts get them only where the address says so.
    return (host[1:-1] if bracketed else host) or "127.0.0.1", int(port)


@contextmanager
def serve(registry: CollectorRegistry, address: str) -> Iterator[str]:
    """Answer scrapes of `/metrics` at the address while the context lasts; gives the URL.

    :raise SettingsError: when the address cannot be understood.
    :raise CapabilityError: when it cannot be listened on.
    """
    host, port = parse_address(address)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        why = error.strerror or str(error)
        hint = "choose another port, or stop what listens there"
        raise CapabilityError("cannot listen for metrics", address, why, hint) from error
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(JOIN_SECONDS)
