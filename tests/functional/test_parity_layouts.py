"""The corpus of layouts looks the same to a boot with libguestfs's own init, to one with ours, and to clones.

Each way of launching is asked the same of all layouts at once; what it says is compared whole, errors included. There
are fewer of them here, with fewer partitions and volumes, than there can be: tests/performance/test_layouts.py has all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.layout_answers import QUESTIONS, WAYS, Answers, compare
from tests.layouts import corpus
from tests.running import Guestlaunch

pytestmark = pytest.mark.timeout(1500)

PARTITIONS, VOLUMES = 5, 3
NAMES = (
    *("copies", "partitions", "volumes", "stacked", "degraded", "incomplete", "array on volumes"),
    *("luks on a volume", "btrfs", "mbr", "large sectors", "read-only", "small"),
)
# What shows that the layouts are there at all.
SHOWN = {
    "devices": ("/dev/sdc5\n", "kept: /dev/sdo\n"),
    "file systems": ("ext2\n", "crypto_LUKS\n", "btrfs\n"),
    "volumes": ("/dev/many/v2\n", "/dev/stacked/top\n"),
    "mounts": ("lost+found\n",),
    "sizes": ("\n4096\n",),
}


@pytest.fixture(scope="module")
def found(
    shared_guestlaunch: Guestlaunch,
    built_state_dir: Path,
    stock_init_appliance: Path,
    module_template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[str, Future[Answers]]]:
    """What each way of launching says."""
    yield from compare(
        shared_guestlaunch,
        corpus(PARTITIONS, VOLUMES, *NAMES),
        kept=built_state_dir.parent / "layouts",
        stock=stock_init_appliance,
        folder=tmp_path_factory.mktemp("layouts"),
    )


@pytest.mark.parametrize("way", WAYS)
def test_launched_as_asked(found: Mapping[str, Future[Answers]], way: str) -> None:
    """No way is another one in disguise, and each shows what there is."""
    answers = found[way].result()
    assert answers.record["start"] == (way if way in ("warm", "standby") else "cold")
    for section, shown in SHOWN.items():
        for text in shown:
            assert text in answers.output[section]


@pytest.mark.parametrize("way", WAYS[1:])
@pytest.mark.parametrize("section", QUESTIONS)
def test_same_as_stock(found: Mapping[str, Future[Answers]], section: str, way: str) -> None:
    """Every line is the one that libguestfs's own init leads to, on both streams."""
    stock, ours = found["stock"].result(), found[way].result()
    assert ours.output[section] == stock.output[section]
    assert ours.errors[section] == stock.errors[section]
