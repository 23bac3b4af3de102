"""libvirt's event loop: it ends before the interpreter does."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import TOP

pytest.importorskip("libvirt", reason="python3-libvirt is not installed")

# What is registered first is called last; the kernel's thread ends a little after Python's. The callback is due all
# the time.
ENDING = """
import atexit, os, sys, time
def tell():
    deadline = time.monotonic() + 10
    while len(os.listdir("/proc/self/task")) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    print("threads at the end:", len(os.listdir("/proc/self/task")))
atexit.register(tell)
from orchestrator.hypervisor.binding import libvirt, start_event_loop
start_event_loop()
libvirt.virEventAddTimeout(0, lambda *_: None, None)
if sys.argv[1] == "fork" and os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize(("how", "ends"), [("exit", 1), ("fork", 2)])
def test_no_thread_of_ours_outlives_the_interpreter(how: str, ends: int) -> None:
    """The loop's thread is gone when the last of Python's own exit handlers runs; a forked child waits for nothing."""
    # Python 3.12 and later advise against such a fork; what becomes of one is what is seen here.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", ENDING, how]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "threads at the end: 1\n" * ends
