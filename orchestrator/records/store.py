"""The store of launches: an SQLite index (WAL) over the canonical log lines, written by whoever launches.

The JSON lines are the truth (2026-11-23). The store is derived from them so that questions about many launches are
answered quickly; where the two disagree the lines are right, and `rebuild` makes the store anew from them. Writing
never fails a launch: what goes wrong is returned, not raised. Reports read it through `Store`; drawing is theirs.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from orchestrator.errors import GuestlaunchError, NotFoundError
from orchestrator.records.filters import Filters, is_modelled
from orchestrator.records.provenance import UNKNOWN, of_event
from orchestrator.records.record import kind_of
from orchestrator.settings import private_state
from orchestrator.timeline.phases import Kind

if TYPE_CHECKING:
    import sqlite3  # imported where it is used: a launch that never ends pays nothing for it

    from orchestrator.records.record import LaunchEvent
    from orchestrator.records.store_rows import LaunchRow, SettledRow, TotalRow

FILE_NAME = "launches.sqlite3"
_VERSION = 3
_DAY_NS = 86_400 * 10**9
# Another process writes for milliseconds; one that takes longer is stopped or broken, and the launch goes on.
_BUSY_MS = 1_000
_PRUNE_EVERY = 256
_SCHEMA = """
CREATE TABLE launches (
    sequence INTEGER PRIMARY KEY,
    launch_id TEXT NOT NULL UNIQUE,
    wall_start_ns INTEGER NOT NULL,
    start TEXT,
    profile TEXT,
    arch TEXT,
    accel TEXT,
    fw_cfg_dma INTEGER,
    outcome TEXT NOT NULL,
    error_phase TEXT,
    launch_ns INTEGER,
    transfer_ns INTEGER,
    total_ns INTEGER NOT NULL,
    modelled INTEGER NOT NULL,
    made_on TEXT NOT NULL,
    kind TEXT NOT NULL,
    line BLOB NOT NULL
);
CREATE INDEX launches_by_time ON launches (wall_start_ns);
CREATE INDEX launches_by_duration ON launches (launch_ns);
"""
# What each version did not know: where launches were made; that anything else than an appliance can be launched.
_EXTENSIONS = {
    1: f"ALTER TABLE launches ADD COLUMN made_on TEXT NOT NULL DEFAULT '{UNKNOWN}'",
    2: f"ALTER TABLE launches ADD COLUMN kind TEXT NOT NULL DEFAULT '{Kind.LAUNCH}'",
}
_COLUMNS = (
    "launch_id", "wall_start_ns", "start", "profile", "arch", "accel", "fw_cfg_dma", "outcome", "error_phase",
    "launch_ns", "transfer_ns", "total_ns",
)  # fmt: skip
_INSERT = (
    f"INSERT OR REPLACE INTO launches ({', '.join(_COLUMNS)}, modelled, made_on, kind, line) "  # noqa: S608 - our names
    f"VALUES ({', '.join('?' * (len(_COLUMNS) + 4))})"
)


def append(state_dir: Path, event: LaunchEvent, *, keep_launches: int = 0, keep_days: int = 0) -> str | None:
    """Add one canonical line to the store; return why it could not be added, None when it was.

    A few milliseconds; safe from several processes at once, and a process killed in the middle leaves the store whole.

    :param keep_launches: how many launches are kept; `keep_days` likewise, in days. 0 keeps all.
    """
    import sqlite3

    try:
        private_state(state_dir)
        with closing(_connect(state_dir / FILE_NAME)) as db:
            with db:
                db.execute("BEGIN IMMEDIATE")
                row = db.execute(_INSERT, _row(event)).lastrowid or 0
            if row % _PRUNE_EVERY == 0:
                _prune(db, int(event["wall_start_ns"]), keep_launches, keep_days)
    except (sqlite3.Error, OSError, KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def rebuild(state_dir: Path, events: Iterable[LaunchEvent]) -> int:
    """Make the store anew from canonical lines; return how many launches it holds then.

    :raise GuestlaunchError: when it cannot be written.
    """
    import sqlite3

    path = state_dir / FILE_NAME
    try:
        private_state(state_dir)
        _discard_unreadable(path)
        with closing(_connect(path)) as db, db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM launches")
            db.executemany(_INSERT, (_row(event) for event in events))
            return int(db.execute("SELECT count(*) FROM launches").fetchone()[0])
    except (sqlite3.Error, OSError) as error:
        raise GuestlaunchError("cannot rebuild the store of launches", path, error) from error


def _discard_unreadable(path: Path) -> None:
    """Remove a store that SQLite does not take for one; the log lines hold what was in it."""
    import sqlite3

    try:
        with closing(_connect(path)) as db:
            db.execute("SELECT count(*) FROM launches").fetchone()
    except sqlite3.OperationalError:
        raise  # busy, full, not ours to read: not broken
    except sqlite3.DatabaseError:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


class Store:
    """Reads the store. Use `open_store`."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def rows(self, filters: Filters, *, limit: int | None = None) -> list[LaunchRow]:
        """Return launches in short, the newest first."""
        where, values = filters.where()
        names = (*_COLUMNS, "modelled", "made_on", "kind")
        sql = f"SELECT {', '.join(names)} FROM launches{where} ORDER BY wall_start_ns DESC, sequence DESC LIMIT ?"  # noqa: S608 - conditions are ours, values are bound
        found = self._ask(sql, [*values, -1 if limit is None else limit])
        rows = [cast("LaunchRow", dict(zip(names, row, strict=True))) for row in found]
        for row in rows:
            row["fw_cfg_dma"] = None if row["fw_cfg_dma"] is None else bool(row["fw_cfg_dma"])
            row["modelled"] = bool(row["modelled"])
        return rows

    def settled(self, filters: Filters, *, limit: int) -> Iterator[SettledRow]:
        """Yield the newest successful cold launches whose transfer path is known, in short."""
        where, values = filters.where()
        group = ("profile", "accel", "start", "modelled", "made_on")
        names = (*group, "wall_start_ns", "fw_cfg_dma", "launch_ns", "transfer_ns")
        sql = (
            f"SELECT {', '.join(names)} FROM launches{where} "  # noqa: S608 - the same
            f"{'AND' if where else 'WHERE'} outcome = 'success' AND start = 'cold' AND fw_cfg_dma IS NOT NULL "
            "ORDER BY wall_start_ns DESC LIMIT ?"
        )
        for row in self._ask(sql, [*values, limit]):
            yield cast("SettledRow", dict(zip(names, row, strict=True)))

    def lines(
        self, filters: Filters, *, order: str = "wall_start_ns", limit: int | None = None
    ) -> Iterator[LaunchEvent]:
        """Yield whole canonical lines in ascending order of a column ("-column" for descending)."""
        column = order.removeprefix("-")
        if column not in _COLUMNS:
            raise ValueError(f"no column {column}")
        where, values = filters.where()
        direction = "DESC" if order.startswith("-") else "ASC"
        sql = f"SELECT line FROM launches{where} ORDER BY {column} {direction} NULLS LAST LIMIT ?"  # noqa: S608 - the same
        for (line,) in self._ask(sql, [*values, -1 if limit is None else limit]):
            yield json.loads(zlib.decompress(line))

    def sample(self, filters: Filters, size: int) -> Iterator[LaunchEvent]:
        """Yield a random sample of whole lines, each launch with the same chance; all when there are no more."""
        where, values = filters.where()
        sql = (
            "SELECT line FROM launches WHERE sequence IN "  # noqa: S608 - the same
            f"(SELECT sequence FROM launches{where} ORDER BY random() LIMIT ?) ORDER BY wall_start_ns"
        )
        for (line,) in self._ask(sql, [*values, size]):
            yield json.loads(zlib.decompress(line))

    def find(self, launch_id: str) -> LaunchEvent | None:
        """Return the whole line of the launch whose id starts so; None when none does.

        "last" is the one that ended last: a VM, and not the appliance that was launched meanwhile to customise it.

        :raise NotFoundError: when several ids start so.
        """
        if launch_id == "last":
            found = list(self._ask("SELECT line FROM launches ORDER BY sequence DESC LIMIT 1", []))
            return cast("LaunchEvent", json.loads(zlib.decompress(found[0][0]))) if found else None
        sql = "SELECT line FROM launches WHERE substr(launch_id, 1, ?) = ? LIMIT 2"
        found = list(self._ask(sql, [len(launch_id), launch_id]))
        if len(found) > 1:
            raise NotFoundError("cannot tell launches apart", launch_id, "several ids start so", "give more of the id")
        return cast("LaunchEvent", json.loads(zlib.decompress(found[0][0]))) if found else None

    def totals(self, filters: Filters) -> list[TotalRow]:
        """Return exact counts of launches by all that keeps them apart, with first and last time."""
        where, values = filters.where()
        kept_apart = ("profile", "accel", "start", "fw_cfg_dma", "outcome", "modelled", "made_on")
        names = (*kept_apart, "launches", "first_ns", "last_ns")
        sql = (
            f"SELECT {', '.join(kept_apart)}, count(*), min(wall_start_ns), max(wall_start_ns) "  # noqa: S608 - the same
            f"FROM launches{where} GROUP BY 1, 2, 3, 4, 5, 6, 7 ORDER BY 1, 2, 3, 4, 5, 6, 7"
        )
        return [cast("TotalRow", dict(zip(names, row, strict=True))) for row in self._ask(sql, values)]

    def _ask(self, sql: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        import sqlite3

        try:
            yield from self._db.execute(sql, list(values))
        except (sqlite3.Error, zlib.error) as error:
            raise _unreadable(self._path, error) from error


@contextmanager
def open_store(state_dir: Path) -> Iterator[Store]:
    """Yield the store for reading.

    :raise NotFoundError: when nothing was launched yet.
    :raise GuestlaunchError: when it cannot be read.
    """
    import sqlite3

    path = state_dir / FILE_NAME
    if not path.exists():
        raise NotFoundError("no launches recorded", path, "the store is made by the first launch")
    try:
        db = _connect(path)
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    with closing(db):
        yield Store(db, path)


def _unreadable(path: Path, error: Exception) -> GuestlaunchError:
    import sqlite3

    # Not what it says is wrong, but the file system: SQLite needs room to read, too (SQLITE_FULL, SQLITE_IOERR).
    of_the_host = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
    hint = "is the file system full?" if of_the_host else "guestlaunch history --rebuild"
    return GuestlaunchError("cannot read the store of launches", path, error, hint)


def _connect(path: Path) -> sqlite3.Connection:
    import sqlite3

    with contextlib.suppress(OSError):  # SQLite's to tell; its other files get the mode of this one
        _make_private(path)
    db = sqlite3.connect(path, timeout=_BUSY_MS / 1e3, isolation_level=None)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            _create(db)
        elif version in _EXTENSIONS:
            _extend(db)
        elif version != _VERSION:
            why = f"its version is {version}, this guestlaunch writes version {_VERSION}"
            raise sqlite3.OperationalError(why)  # noqa: TRY301 - closes the connection on its way
        # Who is not alone with a new store is told at once that it is locked, and leaves this to the next.
        with contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode = WAL")
        # WAL with NORMAL: whole after any crash of processes; a power cut may lose the newest rows, but not the log.
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def _make_private(path: Path) -> None:
    """Make the file where it is missing, for its owner alone, without opening it.

    Closing any descriptor of it would drop the locks that all connections of this process have on it (fcntl(2)), and
    another process that believes itself alone then removes the write-ahead log beneath them.
    """
    with contextlib.suppress(FileExistsError):
        os.mknod(path, stat.S_IFREG | 0o600)
    if path.stat().st_uid == os.geteuid():
        path.chmod(0o600)


def _create(db: sqlite3.Connection) -> None:
    """Create the tables; one of several processes that try at once does it."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        if db.execute("PRAGMA user_version").fetchone()[0] == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")


def _extend(db: sqlite3.Connection) -> None:
    """Bring the tables of an older version up to date; one of several processes that try at once does it."""
    with db:
        db.execute("BEGIN IMMEDIATE")
        for version in range(db.execute("PRAGMA user_version").fetchone()[0], _VERSION):
            db.execute(_EXTENSIONS[version])
        db.execute(f"PRAGMA user_version = {_VERSION}")


def _row(event: LaunchEvent) -> tuple[object, ...]:
    line = zlib.compress(json.dumps(event, separators=(",", ":")).encode(), 1)
    return (
        *(event.get(column) for column in _COLUMNS),
        is_modelled(event),
        of_event(event).label,
        kind_of(event),
        line,
    )


def _prune(db: sqlite3.Connection, now_ns: int, keep_launches: int, keep_days: int) -> None:
    with db:
        if keep_days:
            db.execute("DELETE FROM launches WHERE wall_start_ns < ?", (now_ns - keep_days * _DAY_NS,))
        if keep_launches:
            newest = "SELECT sequence FROM launches ORDER BY sequence DESC LIMIT -1 OFFSET ?"
            db.execute(f"DELETE FROM launches WHERE sequence IN ({newest})", (keep_launches,))  # noqa: S608 - constant
