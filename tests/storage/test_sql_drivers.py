"""What each driver of the SQL port promises for itself, and what is said when a database cannot be used."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.storage.errors import StorageError
from headgate.storage.sql.open import open_sql
from tests import servers


def test_a_new_sqlite_file_is_private_and_safe(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.db"

    def pragmas(db: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "query_only")
        return [db.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names]

    async def main() -> None:
        sql = await open_sql(f"sqlite:///{path}")
        try:
            assert await sql.run(pragmas) == ["wal", 2, 1, 0]
            assert await sql.read(pragmas) == ["wal", 2, 1, 1]
            files = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
            assert files["state.db"] == 0o600
            assert set(files.values()) == {0o600}
        finally:
            await sql.aclose()

    asyncio.run(main())


def test_a_sqlite_file_that_another_process_locks_is_overloaded_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        sql = await open_sql(f"sqlite:///{tmp_path}/state.db", timeout_s=2)
        other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        try:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Overloaded, match="another process holds the database") as caught:
                await sql.run(lambda db: None)
            assert caught.value.code == "storage_unavailable"
            assert caught.value.retry_after
            other.execute("ROLLBACK")
            await sql.run(lambda db: None)
        finally:
            other.close()
            await sql.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"this is no database, but long enough to be one" * 100, b"SQLite"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"notes\.txt cannot be used: file is not a database"):
        asyncio.run(open_sql(f"sqlite:///{path}"))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite://", "nothing would last"),
        ("sqlite:///:memory:", "nothing would last"),
        ("sqlite:////proc/no/such/place.db", "cannot be used"),
        ("mysql://root:hunter2@host/db", "'mysql' is not known; use sqlite:///path or postgresql://"),
        ("hunter2", "no URL"),
        ("postgresql://u:hunter2@host:port/db", "no URL"),
        ("", "no URL"),
    ],
)
def test_a_setting_that_names_no_usable_database_says_what_to_write(url: str, words: str) -> None:
    with pytest.raises(StorageError, match=words) as caught:
        asyncio.run(open_sql(url))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "code"),
    [
        (
            "psycopg",
            "import asyncio; from headgate.storage.sql.open import open_sql; "
            "asyncio.run(open_sql('postgresql://u@127.0.0.1/db'))",
        ),
        (
            "redis",
            "from headgate.core.clock import SystemClock; from headgate.storage.counters.open import open_counters; "
            "open_counters('redis://127.0.0.1/0', SystemClock())",
        ),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(missing: str, code: str) -> None:
    absent = f"import sys; sys.modules[{missing!r}] = None; "
    result = subprocess.run([sys.executable, "-c", absent + code], capture_output=True, text=True, check=False)
    extra = {"psycopg": "postgres", "redis": "redis"}[missing]
    assert f"pip install 'headgate[{extra}]'" in result.stderr
    assert "StorageError" in result.stderr


def test_a_postgres_that_is_not_there_is_overloaded() -> None:
    with pytest.raises(Overloaded, match="database cannot be used") as caught:
        asyncio.run(open_sql(f"postgresql://someone:hunter2@127.0.0.1:{servers.free_port()}/db"))
    assert "hunter2" not in caught.value.message


def test_a_cut_connection_costs_one_transaction_at_most(postgres_url: str) -> None:
    cut = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()")

    async def main() -> None:
        sql = await open_sql(postgres_url)
        try:
            for _ in range(3):
                with pytest.raises(Overloaded, match="database cannot be used"):
                    await sql.run(lambda db: db.execute(cut).all())
                assert await sql.run(lambda db: db.execute(sa.text("SELECT 1")).scalar()) == 1
        finally:
            await sql.aclose()

    asyncio.run(main())


def test_opening_and_closing_leaves_no_connection_behind(postgres_url: str) -> None:
    others = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def main() -> None:
        clock = SystemClock()
        first = await open_sql(postgres_url)
        await asyncio.gather(*(first.run(lambda db: db.execute(others).scalar()) for _ in range(20)))
        await first.aclose()
        second = await open_sql(postgres_url)
        try:
            end = clock.monotonic() + 20
            while (left := await second.run(lambda db: db.execute(others).scalar())) and clock.monotonic() < end:
                await clock.sleep(0.05)  # the server notices a closed socket a moment later
            assert left == 0
        finally:
            await second.aclose()

    asyncio.run(main())
