"""The store of launches: what is written is found again, by several processes at once and after a crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from orchestrator.errors import GuestlaunchError, NotFoundError
from orchestrator.records import store
from orchestrator.records.filters import Filters
from orchestrator.records.record import LaunchEvent
from tests.simulated_launches import INSTRUCTIONS, mixture
from tests.simulated_launches import event as simulated

_SPAWN = multiprocessing.get_context("spawn")


def _append_many(state_dir: Path, seed: int, count: int) -> None:
    for number in range(count):
        why = store.append(state_dir, simulated(1000 * seed + number))
        assert why is None, why


def _append_for_ever(state_dir: Path, ready: Path) -> None:
    number = 0
    while True:
        store.append(state_dir, simulated(9000 + number))
        number += 1
        if number == 20:
            ready.touch()


def test_what_is_appended_is_found(tmp_path: Path) -> None:
    """A line comes back whole, by id, by prefix and as the last one."""
    events = mixture(count=20)
    events[3]["launch_id"] = "5f3a0c94d1e2"
    for event in events:
        assert store.append(tmp_path, event) is None
    with store.open_store(tmp_path) as reader:
        assert list(reader.lines(Filters())) == events
        assert reader.find("last") == events[-1]
        assert reader.find(events[3]["launch_id"][:10]) == events[3]
        assert reader.find("no such") is None
        with pytest.raises(NotFoundError, match="several"):
            reader.find("")


def test_the_last_one_ended_last(tmp_path: Path) -> None:
    """A VM began before the appliance that customised it, and ended later."""
    vm, appliance = mixture(count=20)[:2]
    appliance["wall_start_ns"] = vm["wall_start_ns"] + 1
    for event in (appliance, vm):
        assert store.append(tmp_path, event) is None
    with store.open_store(tmp_path) as reader:
        assert reader.find("last") == vm


def test_selection_and_order(tmp_path: Path) -> None:
    """Each condition filters, and rows come newest first."""
    events = mixture(count=200)
    store.rebuild(tmp_path, events)
    with store.open_store(tmp_path) as reader:
        for filters, keep in (
            (Filters(profile="x86_64-seabios"), lambda e: e["profile"] == "x86_64-seabios"),
            (Filters(accel="kvm"), lambda e: e["accel"] == "kvm"),
            (Filters(fw_cfg_dma=False), lambda e: e["fw_cfg_dma"] is False),
            (Filters(outcome="failure"), lambda e: e["outcome"] == "failure"),
            (Filters(start="warm", accel="tcg"), lambda e: e["start"] == "warm" and e["accel"] == "tcg"),
            (
                Filters(since_ns=events[150]["wall_start_ns"]),
                lambda e: e["wall_start_ns"] >= events[150]["wall_start_ns"],
            ),
        ):
            expected = [e["launch_id"] for e in events if keep(e)][::-1]
            assert expected
            assert [row["launch_id"] for row in reader.rows(filters)] == expected
        assert sum(row["launches"] for row in reader.totals(Filters())) == 200
        slowest = next(reader.lines(Filters(), order="-launch_ns", limit=1))
        assert slowest["launch_ns"] == max(e["launch_ns"] or 0 for e in events)
        assert len(list(reader.sample(Filters(), 50))) == 50


def test_several_processes_at_once(tmp_path: Path) -> None:
    """Four processes create and fill the store together; nothing is lost."""
    workers = [_SPAWN.Process(target=_append_many, args=(tmp_path, seed, 25)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    with store.open_store(tmp_path) as reader:
        assert len(reader.rows(Filters())) == 100


def test_a_new_store_that_another_process_is_making(tmp_path: Path) -> None:
    """The first row goes in although another process has just begun to make the same store."""
    path = tmp_path / store.FILE_NAME
    path.touch()
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.3, other.execute, ["COMMIT"])
        later.start()
        assert store.append(tmp_path, simulated(1)) is None
        later.join()
    assert store.append(tmp_path, simulated(2)) is None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_appending_keeps_the_locks_of_the_same_process(tmp_path: Path) -> None:
    """A reader's lock on the store outlives an append by another thread: without it, others would remove its log."""
    assert store.append(tmp_path, simulated(1)) is None
    inode = (tmp_path / store.FILE_NAME).stat().st_ino
    with store.open_store(tmp_path) as reader:
        assert len(reader.rows(Filters())) == 1
        assert _locked_by_us(inode)
        assert store.append(tmp_path, simulated(2)) is None
        assert _locked_by_us(inode)
    assert not _locked_by_us(inode)


def _locked_by_us(inode: int) -> bool:
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return any(line[4] == str(os.getpid()) and line[5].endswith(f":{inode}") for line in lines if line[1] == "POSIX")


def test_survives_sigkill_in_mid_write(tmp_path: Path) -> None:
    """A writer killed while it writes leaves a whole store that others can go on with."""
    for round_ in range(3):
        ready = tmp_path / f"ready{round_}"
        writer = _SPAWN.Process(target=_append_for_ever, args=(tmp_path / "state", ready))
        writer.start()
        deadline = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.001)
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(10)
    assert store.append(tmp_path / "state", simulated(77)) is None
    with sqlite3.connect(tmp_path / "state" / store.FILE_NAME) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM launches").fetchone()[0] >= 21
    db.close()


def test_a_store_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    """Launches from before it was known where they were made stay, of hosts that are not known; new ones are told."""
    store.rebuild(tmp_path, [simulated(1), simulated(2)])
    with sqlite3.connect(tmp_path / store.FILE_NAME) as db:
        db.execute("ALTER TABLE launches DROP COLUMN made_on")
        db.execute("ALTER TABLE launches DROP COLUMN kind")
        db.execute("PRAGMA user_version = 1")
    db.close()
    assert store.append(tmp_path, simulated(3, provenance=INSTRUCTIONS)) is None
    with store.open_store(tmp_path) as reader:
        found = [(row["launch_id"], row["made_on"]) for row in reader.rows(Filters())]
    assert found == [
        ("simulated-3", "emulated-instructions"), ("simulated-2", "unknown"), ("simulated-1", "unknown"),
    ]  # fmt: skip


def test_kinds_are_kept_apart(tmp_path: Path) -> None:
    """A store from before there were kinds holds launches; who asks for one kind gets no other."""
    store.rebuild(tmp_path, [simulated(1)])
    with sqlite3.connect(tmp_path / store.FILE_NAME) as db:
        db.execute("ALTER TABLE launches DROP COLUMN kind")
        db.execute("PRAGMA user_version = 2")
    db.close()
    run = cast("LaunchEvent", {**simulated(2), "event": "kernel_run_finished", "kind": "kernel"})
    assert store.append(tmp_path, run) is None
    with store.open_store(tmp_path) as reader:
        for kind, wanted in (("launch", ["simulated-1"]), ("kernel", ["simulated-2"]), (None, None)):
            found = [row["launch_id"] for row in reader.rows(Filters(kind=kind))]
            assert found == (wanted or ["simulated-2", "simulated-1"])
    assert Filters(kind="kernel").takes(run)
    assert not Filters(kind="launch").takes(run)
    assert Filters(kind="launch").takes(simulated(1))


def test_same_launch_is_kept_once(tmp_path: Path) -> None:
    """Importing a line that is there already changes nothing."""
    event = simulated(1)
    assert [store.append(tmp_path, event) for _ in range(2)] == [None, None]
    with store.open_store(tmp_path) as reader:
        assert len(reader.rows(Filters())) == 1


def test_retention(tmp_path: Path) -> None:
    """Launches beyond the number, or the age, that is kept go; the newest stay."""
    events = mixture(count=300)
    for event in events:
        assert store.append(tmp_path, event, keep_launches=20, keep_days=0) is None
    with store.open_store(tmp_path) as reader:
        rows = reader.rows(Filters())
    assert 20 <= len(rows) < 20 + 256
    assert rows[0]["launch_id"] == events[-1]["launch_id"]


def test_retention_by_age(tmp_path: Path) -> None:
    """Launches older than the days that are kept go, counted from the newest; without a limit none ever goes."""
    day_ns = 86_400 * 10**9
    old = [simulated(number, wall_start_ns=number * day_ns // 100) for number in range(300)]
    store.rebuild(tmp_path, old)
    for number in range(300, 600):
        assert store.append(tmp_path, simulated(number, wall_start_ns=(number - 290) * day_ns)) is None
    with store.open_store(tmp_path) as reader:
        assert len(reader.rows(Filters())) == 600
    for number in range(600, 600 + 256):
        event = simulated(number, wall_start_ns=(number - 290) * day_ns)
        assert store.append(tmp_path, event, keep_days=30) is None
    with store.open_store(tmp_path) as reader:
        kept = sorted(row["wall_start_ns"] // day_ns for row in reader.rows(Filters()))
    pruned_at = 768  # the row at which a writer looks, between 600 and 856
    assert kept == list(range(pruned_at - 1 - 290 - 30, 856 - 290))


def test_trouble_is_returned_not_raised(tmp_path: Path) -> None:
    """A store that cannot be written, or a line that is none, never fails the launch."""
    (tmp_path / store.FILE_NAME).write_bytes(b"this is no database, whatever its name says" * 100)
    assert "not a database" in (store.append(tmp_path, simulated(0)) or "")
    (tmp_path / "file").touch()
    assert store.append(tmp_path / "file", simulated(0)) is not None
    assert store.append(tmp_path / "other", {"event": "launch_finished"}) is not None  # type: ignore[typeddict-item]


def test_rebuild_replaces_a_broken_store(tmp_path: Path) -> None:
    """The lines are the truth: from them a broken store is made anew."""
    (tmp_path / store.FILE_NAME).write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(GuestlaunchError, match="rebuild"), store.open_store(tmp_path):
        pass
    assert store.rebuild(tmp_path, mixture(count=20)) == 20
    with store.open_store(tmp_path) as reader:
        assert len(reader.rows(Filters())) == 20


def test_a_busy_store_does_not_hold_a_launch_up(tmp_path: Path) -> None:
    """A writer that never ends costs a launch the busy time-out at most, and is told."""
    assert store.append(tmp_path, simulated(1)) is None
    db = sqlite3.connect(tmp_path / store.FILE_NAME, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    before = time.monotonic()
    assert "locked" in (store.append(tmp_path, simulated(2)) or "")
    assert time.monotonic() - before < 5
    db.close()


def test_nothing_launched_yet(tmp_path: Path) -> None:
    """Reading before the first launch says so."""
    with pytest.raises(NotFoundError, match="no launches"), store.open_store(tmp_path):
        pass


def test_store_is_its_owners_alone(tmp_path: Path) -> None:
    """The store holds what guests wrote on their consoles: nobody else reads it, nor the files beside it."""
    before = os.umask(0o022)
    try:
        (tmp_path / "state").mkdir(mode=0o755)
        (tmp_path / "state" / store.FILE_NAME).touch(mode=0o644)  # as earlier versions made it
        assert store.append(tmp_path / "state", simulated(1)) is None
    finally:
        os.umask(before)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()} == {0o600}


@pytest.mark.parametrize(("code", "hint"), [(10, "full"), (13, "full"), (522, "full"), (26, "history --rebuild")])
def test_what_the_file_system_cannot_do_is_not_rebuilt(tmp_path: Path, code: int, hint: str) -> None:
    """SQLite's I/O errors, whichever, and its lack of room are the host's; a damaged store is ours to make anew."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = code
    assert hint in store._unreadable(tmp_path, error).hint
