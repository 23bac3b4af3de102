"""Generates the Grafana dashboards in configs/dashboards/.

Usage: .venv/bin/python tools/dashboards [--check] [DIR]

The files are committed: a site imports them as they are. A test compares them with what this program makes, and
another asks a real Prometheus every query.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import from_log
import from_metrics
from grafana import build

TOP = Path(__file__).resolve().parents[2]


def generate() -> dict[str, str]:
    """Return the dashboards by file name."""
    return {
        "launches-prometheus.json": build(
            "guestlaunch-launches", "guestlaunch: launches", "prometheus", from_metrics.ROWS
        ),
        "launches-loki.json": build("guestlaunch-log", "guestlaunch: log of launches", "loki", from_log.ROWS),
    }


def main() -> int:
    """Write the dashboards, or with --check tell whether they are up to date."""
    parser = argparse.ArgumentParser(description="Generate the Grafana dashboards.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 when a file is out of date")
    parser.add_argument("folder", metavar="DIR", nargs="?", type=Path, default=TOP / "configs" / "dashboards")
    options = parser.parse_args()
    stale = []
    for name, text in generate().items():
        path = options.folder / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        stale.append(name)
        if not options.check:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
    if stale:
        print(f"{'out of date' if options.check else 'written'}: {', '.join(stale)}")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
