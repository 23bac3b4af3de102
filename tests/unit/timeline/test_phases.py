"""Tiling: phases laid end to end, gaps named, nothing guessed."""

from __future__ import annotations

import pytest

from orchestrator.timeline.phases import ORDER_TOLERANCE_NS, SEQUENCE, Boundary, Phase, Start, Tile, order, tile

COLD = SEQUENCE[Start.COLD]


def at(ns: int) -> Boundary:
    """Return a boundary at a time, from a source that only tests have."""
    return Boundary(at_ns=ns, source="test")


def named(tiles: tuple[Tile, ...], phase: Phase) -> Tile:
    """Return the tile of a phase."""
    return next(t for t in tiles if t.name is phase)


@pytest.mark.parametrize("start", Start)
def test_complete_launch_tiles_without_gaps(start: Start) -> None:
    """Every phase starts where the one before it ended, and the durations sum to the total, whatever the start."""
    boundaries = {phase: at(1_000 + 10 * index) for index, phase in enumerate(SEQUENCE[start])}
    tiles = tile(start, boundaries, 1_500)
    assert [t.name for t in tiles] == list(SEQUENCE[start])
    position = 0
    for each in tiles:
        assert each.start_ns == position
        assert each.duration_ns is not None
        position += each.duration_ns
    assert position == 500
    assert {t.outcome for t in tiles} == {"success"}


def test_all_starts_begin_and_end_alike() -> None:
    """The start is decided when the first phase has begun already; what follows guestfsd is the same for all."""
    common = (Phase.GUESTFSD, Phase.READY, Phase.WORKLOAD, Phase.SHUTDOWN)
    assert {(phases[0], phases[-4:]) for phases in SEQUENCE.values()} == {(Phase.PLAN, common)}
    boot, clone = set(SEQUENCE[Start.COLD]), set(SEQUENCE[Start.WARM])
    assert clone - boot == {Phase.RESTORE, Phase.ATTACH, Phase.GATE}
    assert boot - clone == set(COLD[COLD.index(Phase.QEMU) : COLD.index(Phase.GUESTFSD)])
    assert set(SEQUENCE[Start.STANDBY]) < clone


def test_boundaries_of_another_start_are_left_out() -> None:
    """A clone's guest dates its kernel's start as any does; that is no phase of its launch."""
    tiles = tile(Start.WARM, {Phase.PLAN: at(0), Phase.KERNEL: at(1), Phase.GATE: at(5)}, 9)
    assert [t.name for t in tiles] == list(SEQUENCE[Start.WARM])
    assert named(tiles, Phase.GATE).duration_ns == 4


def test_unseen_boundary_is_null_and_its_time_is_named_elsewhere() -> None:
    """A missing boundary gives null with its reason; the tile before it says whose time it holds."""
    boundaries = {phase: at(10 * index) for index, phase in enumerate(COLD)}
    del boundaries[Phase.KERNEL], boundaries[Phase.INITRD]
    tiles = tile(Start.COLD, boundaries, 500, why={Phase.KERNEL: "no markers"})
    kernel = named(tiles, Phase.KERNEL)
    assert (kernel.start_ns, kernel.duration_ns, kernel.outcome, kernel.reason) == (None, None, "unseen", "no markers")
    assert named(tiles, Phase.INITRD).reason == "no source reported it"
    assert named(tiles, Phase.FIRMWARE_HANDOFF).includes == (Phase.KERNEL, Phase.INITRD)
    assert sum(t.duration_ns or 0 for t in tiles) == 500


def test_failed_launch_marks_the_phase_it_failed_in() -> None:
    """The last phase reached carries the outcome; those beyond it were not reached."""
    tiles = tile(Start.COLD, {Phase.PLAN: at(0), Phase.STAGE: at(5)}, 9, outcome="failure")
    assert named(tiles, Phase.PLAN).outcome == "success"
    assert named(tiles, Phase.STAGE).outcome == "failure"
    assert named(tiles, Phase.KERNEL).outcome == "not_reached"


def test_small_disorder_is_adjusted_and_said() -> None:
    """A boundary within the clocks' resolution is moved, by an amount that is reported."""
    boundaries = {Phase.PLAN: at(0), Phase.KERNEL: at(100_000_000), Phase.INITRD: at(99_000_000)}
    initrd = named(tile(Start.COLD, boundaries, 200_000_000), Phase.INITRD)
    assert (initrd.start_ns, initrd.adjusted_ns) == (100_000_000, 1_000_000)


def test_large_disorder_is_not_believed() -> None:
    """A boundary far out of order counts as unseen."""
    late = 2 * ORDER_TOLERANCE_NS
    boundaries = {Phase.PLAN: at(0), Phase.KERNEL: at(late), Phase.INITRD: at(1)}
    initrd = named(tile(Start.COLD, boundaries, late + 1), Phase.INITRD)
    assert initrd.duration_ns is None
    assert "out of order" in str(initrd.reason)


def test_linuxboot_loads_the_initrd_first() -> None:
    """The two transfer phases follow the boot code's order."""
    boundaries = {Phase.FW_CFG_KERNEL: at(20), Phase.FW_CFG_INITRD: at(10)}
    phases = order(Start.COLD, boundaries)
    assert phases.index(Phase.FW_CFG_INITRD) == phases.index(Phase.FW_CFG_KERNEL) - 1


def test_transfer_rate() -> None:
    """Bytes over time, in MB/s."""
    boundaries = {Phase.PLAN: at(0), Phase.FW_CFG_KERNEL: at(10), Phase.FW_CFG_INITRD: at(10 + 50_000_000)}
    tiles = tile(Start.COLD, boundaries, 100_000_000, sizes={Phase.FW_CFG_KERNEL: 25_000_000})
    assert named(tiles, Phase.FW_CFG_KERNEL).mb_per_s == pytest.approx(500.0)
    assert named(tiles, Phase.FW_CFG_INITRD).mb_per_s is None


def test_first_boundary_is_required() -> None:
    """A timeline without a beginning is a programming error."""
    with pytest.raises(ValueError, match="first boundary"):
        tile(Start.COLD, {Phase.STAGE: at(0)}, 5)
