"""SQLite: one file, one writer at a time, readers beside it."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, event

from headgate.storage.errors import StorageError
from headgate.storage.sql.port import READ_ONLY, Sql, Threads

READERS = 3
BUSY_S = 5.0
"""How long a transaction waits for another process's write; at most half of its own time, so that it says so."""
_PRAGMAS = (
    "PRAGMA foreign_keys = ON",
    # FULL, not NORMAL: the shipper deletes the log once its rows are committed, and a revoked key must stay revoked,
    # so a commit must survive a power cut. It costs one fsync for each of a few transactions a second.
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_size_limit = 67108864",
)


def connect(url: sa.URL, timeout_s: float) -> Sql:
    """Makes the file where it is missing, readable by its owner alone, and switches it to a write-ahead log.

    Raises `StorageError` where that cannot be.
    """
    if not url.database or url.database == ":memory:":
        raise StorageError("storage.sql: sqlite needs a file, or nothing would last; write sqlite:///path/to/file.db")
    path = Path(url.database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        _use_write_ahead_log(path)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"storage.sql: {path} cannot be used: {error}") from error
    engine = sa.create_engine(
        url,
        connect_args={"timeout": min(BUSY_S, timeout_s / 2), "check_same_thread": False},
        poolclass=sa.QueuePool,
        pool_size=READERS + 1,
        max_overflow=0,
        pool_timeout=timeout_s,
        hide_parameters=True,
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return Sql(engine, Threads(READERS, 1), timeout_s, _interrupt)


def _use_write_ahead_log(path: Path) -> None:
    """Held once, before anyone else of this process connects; the file remembers it."""
    db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        if (
            _journal_mode(db, "PRAGMA journal_mode") != "wal"
            and _journal_mode(db, "PRAGMA journal_mode = WAL") != "wal"
        ):
            raise StorageError(
                f"storage.sql: {path} lies on a file system without shared memory, such as a network share; "
                "put it on a local disk, or use postgresql://"
            )
    finally:
        db.close()


def _journal_mode(db: sqlite3.Connection, pragma: str) -> str:
    return str(db.execute(pragma).fetchone()[0])


def _prepare(driver: Any, _record: object) -> None:
    driver.isolation_level = None  # `_begin` begins transactions, the driver's own habits stay out of it
    for pragma in _PRAGMAS:
        driver.execute(pragma).close()


def _begin(db: Connection) -> None:
    # A transaction that begins by reading and then writes can fail where another wrote in between; one that takes the
    # write lock first cannot. Readers take no lock at all.
    read_only = bool(db.get_execution_options().get(READ_ONLY))
    db.exec_driver_sql(f"PRAGMA query_only = {int(read_only)}")
    db.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _interrupt(driver: Any) -> None:
    driver.interrupt()
