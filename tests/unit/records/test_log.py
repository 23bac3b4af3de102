"""When the event log imports what writes it."""

from __future__ import annotations

import threading
from pathlib import Path

from orchestrator.records.log import EventLog


def test_a_log_is_got_ready_once(tmp_path: Path) -> None:
    """By whoever comes first; one that nobody wants is not."""
    log = EventLog(str(tmp_path / "log"))
    log.prepare_beside()()
    began = [thread.name for thread in threading.enumerate()]
    log.prepare_beside()()
    EventLog(None).prepare_beside()()
    assert [thread.name for thread in threading.enumerate()] == began
    log.emit("one")
    assert '"event": "one"' in (tmp_path / "log").read_text()
