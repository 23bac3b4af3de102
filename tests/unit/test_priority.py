"""Who gives way: sessions, where the kernel schedules them as groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import priority

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="the kernel does not schedule sessions as groups"
)

NICE = 7


def in_a_session(code: str) -> str:
    """Run code in a process that leads a session, and return what it prints."""
    command = [sys.executable, "-c", f"import os\nfrom orchestrator import priority\n{code}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, start_new_session=True).stdout.strip()


def test_what_is_idle_is_so_beside_other_sessions() -> None:
    """The scheduling policy counts among the processes of one session alone."""
    said = in_a_session("priority.give_way(); print(priority.session_nice(), os.sched_getscheduler(0))")
    assert said == f"{priority.LOWEST} {os.SCHED_IDLE}"


def test_a_session_gives_way_as_its_parents_does() -> None:
    """What starts it can say so, and it can find out by itself; it takes nothing from a parent that gives no way."""
    child = "import os; from orchestrator import priority as p; p.take_over(); print(p.session_nice())"
    start = f"subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    assert in_a_session(f"import subprocess, sys; priority.set_session_nice({NICE}); {start}") == str(NICE)
    assert in_a_session(f"import subprocess, sys; {start}") == "0"
    sleep = "one = subprocess.Popen(['sleep', '60'], start_new_session=True); priority.pass_on(one.pid)"
    look = "print(priority.session_nice(one.pid)); one.kill()"
    assert in_a_session(f"import subprocess; priority.set_session_nice({NICE}); {sleep}; {look}") == str(NICE)


def test_what_cannot_be_told_is_left_as_it_is() -> None:
    """A process that is gone."""
    with subprocess.Popen(["true"]) as gone:
        pass
    assert not priority.set_session_nice(NICE, gone.pid)
    assert priority.session_nice(gone.pid) == 0
