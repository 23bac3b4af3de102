"""What it means when a disk's error has stopped a guest: QEMU does that where the host has no space left for a write.

The guest then stands still, and QEMU would try again if somebody resumed it. Nobody does: no libguestfs tool knows how
to ask for that.
"""

from __future__ import annotations

import re

from orchestrator.errors import DiskError, GuestlaunchError
from orchestrator.hypervisor.guest import Guest

_QMP_SECONDS = 2.0
_LONGEST = 300
_GIVEN = re.compile(r"/dev/fdset/(\d+)")


def stopped_by_disk(guest: Guest) -> DiskError | None:
    """Return the error of the disk that has stopped a guest, None when none has."""
    event = guest.disk_error
    if event is None:
        return None
    where = _file_of(guest, str(event.detail.get("node-name") or event.detail.get("device") or ""))
    operation = "read from" if event.detail.get("operation") == "read" else "write to"
    reason = str(event.detail.get("reason") or "an I/O error")
    hint = "what the guest had not yet written there is lost, as by a power cut"
    if event.detail.get("nospace"):
        hint = f"free some space there and run the tool again; {hint}"
    return DiskError(f"cannot {operation} the disk", where, reason, hint)


def _file_of(guest: Guest, node: str) -> str:
    """Return the file behind a block node, or the node's name where QEMU does not say.

    A file that QEMU was given bears its path as what QMP calls `opaque`.
    """
    try:
        nodes = guest.qmp("query-named-block-nodes", {"flat": True}, deadline_s=_QMP_SECONDS)
        found = next((str(one["file"]) for one in nodes if one.get("node-name") == node), node)
        if given := _GIVEN.fullmatch(found):
            sets = guest.qmp("query-fdsets", deadline_s=_QMP_SECONDS)
            opaque = (fd.get("opaque") for one in sets if one["fdset-id"] == int(given[1]) for fd in one["fds"])
            found = next((str(path) for path in opaque if path), found)
    except (GuestlaunchError, AttributeError, KeyError, TypeError):
        found = node
    return found if len(found) <= _LONGEST else f"{found[:_LONGEST]}…"
