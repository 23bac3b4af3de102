"""The line about a disk's error names the user's file, whatever QEMU calls it."""

from __future__ import annotations

from typing import Any, cast

import pytest

from orchestrator.hypervisor.disk_error import stopped_by_disk
from orchestrator.hypervisor.events import EventSource, GuestEvent
from orchestrator.hypervisor.guest import Guest

ANSWERS: dict[str, Any] = {
    "query-named-block-nodes": [
        {"node-name": "by-name", "file": "/images/a.img"},
        {"node-name": "given", "file": "/dev/fdset/3"},
        {"node-name": "nameless", "file": "/dev/fdset/4"},
    ],
    "query-fdsets": [
        {"fdset-id": 3, "fds": [{"fd": 9, "opaque": "/images/b.img"}]},
        {"fdset-id": 4, "fds": [{"fd": 10}]},
    ],
}


class Stopped:
    """A guest that stands still for an error of one block node."""

    def __init__(self, event: GuestEvent) -> None:
        self.disk_error = event

    def qmp(self, command: str, arguments: object = None, **_: object) -> object:
        """Answer as QEMU does."""
        return ANSWERS[command]


@pytest.mark.parametrize(
    ("node", "file"),
    [("by-name", "/images/a.img"), ("given", "/images/b.img"), ("nameless", "/dev/fdset/4"), ("gone", "gone")],
)
def test_the_file_is_named(node: str, file: str) -> None:
    """By its path, also where QEMU was given it as a descriptor; else by what there is."""
    detail = {"node-name": node, "operation": "write", "nospace": True, "reason": "No space left on device"}
    event = GuestEvent(source=EventSource.QEMU, name="BLOCK_IO_ERROR", received_ns=1, detail=detail)
    error = stopped_by_disk(cast("Guest", Stopped(event)))
    assert error is not None
    assert str(error.subject) == file
