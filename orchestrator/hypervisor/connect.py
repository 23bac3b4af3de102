"""Opens connections to libvirt's QEMU driver: with retries, deadlines and, for the embedded driver, a private root."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import DeadlineError
from orchestrator.hypervisor import bounded, driver, embed, retry
from orchestrator.hypervisor.binding import libvirt, start_event_loop
from orchestrator.hypervisor.connection import Connection
from orchestrator.hypervisor.failure import translate


def _open(uri: str, deadline_s: float | None) -> libvirt.virConnect:
    """Open a connection; one that comes too late is closed again.

    :raise DeadlineError: it took too long.
    """

    def open_it() -> libvirt.virConnect:
        return driver.started(lambda: libvirt.open(uri)) if uri.startswith("qemu:///embed") else libvirt.open(uri)

    if deadline_s is None:
        return open_it()
    try:
        return bounded.call(open_it, deadline_s, name="connect", late=lambda handle: handle.close())
    except TimeoutError as error:
        hint = "is its daemon stopped? GUESTLAUNCH_DEADLINE_CONNECT allows more"
        raise DeadlineError("cannot connect to", uri, f"libvirt gave {error}", hint) from error


@contextlib.contextmanager
def open_connection(
    uri: str | None,
    state_dir: Path,
    *,
    runtime_dir: Path | None = None,
    policy: retry.RetryPolicy | None = None,
    emit: Callable[..., None] | None = None,
    deadline_s: float | None = None,
) -> Iterator[Connection]:
    """Open a connection and close it at the end.

    :param uri: libvirt URI; None (or "qemu:///embed") means the driver embedded in this process.
    :param state_dir: where the embedded driver's root and its capabilities cache are kept.
    :param runtime_dir: where sockets are to lie, that root if need be; None for the usual place.
    :param policy: how often and how long to try while libvirt's failure is one that passes.
    :param emit: the event log's `emit`.
    :param deadline_s: how long each attempt may take; None for as long as libvirt likes.
    :raise DeadlineError: it took longer.
    :raise CapabilityError: the embedded driver cannot be had here.
    :raise ConnectionLostError, HypervisorError: the daemon cannot be reached or refused.
    """
    start_event_loop()
    root = embed.private_root(state_dir, runtime_dir) if uri in {None, "qemu:///embed"} else None
    target = root.uri if root else str(uri)
    if root is not None:
        # libvirt does not start a driver again in the same process, and at the second try hides why.
        policy = retry.ONCE
    try:
        with driver.folders(root.path) if root else contextlib.nullcontext():
            handle = retry.call("connect", lambda: _open(target, deadline_s), policy=policy, emit=emit)
    except libvirt.libvirtError as failure:
        if root is not None:
            raise driver.not_started(failure, root.path) from failure
        raise translate(failure, "cannot connect to", target) from failure
    connection = Connection(handle, target, root)
    try:
        connection.subscribe()
    except libvirt.libvirtError as failure:
        connection.close()
        raise translate(failure, "cannot watch the guests of", target) from failure
    try:
        yield connection
    finally:
        connection.close()
