"""The corpus of layouts at its largest: as many partitions and volumes as there can be. Run by hand: it takes minutes.

tools/test -m performance -s tests/performance/test_layouts.py
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layout_answers import WAYS, compare
from tests.layouts import corpus
from tests.running import Guestlaunch

pytestmark = pytest.mark.timeout(3 * 3600)

PARTITIONS, VOLUMES = 128, 150
SESSION_S = 3000.0  # a program is started for each device and each question, in a guest that is emulated


def test_every_way_sees_the_same(
    guestlaunch: Guestlaunch, built_state_dir: Path, stock_init_appliance: Path, tmp_path: Path
) -> None:
    """With 128 partitions on a disk and 150 volumes in a group, all answers are those of libguestfs's own init."""
    kept = built_state_dir.parent / "layouts"
    made = corpus(PARTITIONS, VOLUMES)
    answers = compare(guestlaunch, made, kept=kept, stock=stock_init_appliance, folder=tmp_path, session_s=SESSION_S)
    for found in answers:
        stock = found["stock"].result()
        assert f"{PARTITIONS}\n" in stock.output["devices"]
        for way in WAYS[1:]:
            ours = found[way].result()
            assert (ours.output, ours.errors) == (stock.output, stock.errors)
            assert ours.record["start"] == (way if way in {"warm", "standby"} else "cold")
