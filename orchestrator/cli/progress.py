"""Progress of long work: a bar on a terminal, a line a step elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

Progress = Callable[[str, float | None], None]


@contextlib.contextmanager
def shown(title: str) -> Iterator[Progress]:
    """Yield what takes (step, fraction done or None where unknown)."""
    if not sys.stderr.isatty():
        yield _lines(title)
        return
    from rich.console import Console  # here: only a terminal needs it
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)

        def report(step: str, fraction: float | None) -> None:
            bars.update(task, description=f"{title}: {step}", total=None if fraction is None else 1.0)
            bars.update(task, completed=fraction or 0.0)

        yield report


def _lines(title: str) -> Progress:
    began = time.monotonic()
    last = ""

    def report(step: str, _fraction: float | None) -> None:
        nonlocal last
        if step != last:
            last = step
            sys.stderr.write(f"{title}: {step} ({time.monotonic() - began:.0f} s)\n")
            sys.stderr.flush()

    return report
