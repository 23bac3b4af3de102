"""The guardian's own second: it does the work where the guardian was killed together with the process it guarded.

A program of its own, started by `leftovers` with the same standard input, so that whoever kills the one by its name
leaves the other. Its argument is the guardian's process id; the root is in the variable GUESTLAUNCH_GUARDED.
"""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from orchestrator.hypervisor import leftovers


def stand_by(root: Path, guardian: int) -> None:
    """Wait until both the guarded process and the guardian are dead; then clean up in the guardian's place.

    :param guardian: its process id. One that lives ends us when it has done its work.
    """
    try:
        pidfd = os.pidfd_open(guardian)
    except ProcessLookupError:
        pidfd = -1
    # First only the end of the input: what is said there is for the guardian.
    for descriptor, events in ((0, 0), (pidfd, select.POLLIN)):
        if descriptor >= 0:
            ended = select.poll()
            ended.register(descriptor, events)
            ended.poll()
    leftovers.clean_up(root)


if __name__ == "__main__":
    stand_by(Path(os.environ[leftovers.GUARDED]), int(sys.argv[1]))
