"""What every driver of the SQL port promises."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from headgate.core.errors import Overloaded
from headgate.storage.errors import StorageError
from headgate.storage.sql import (
    tables,
    tables_billing,
    tables_idempotency,
    tables_ledger,
    tables_release,
    tables_tenancy,
)
from headgate.storage.sql.migrate import MIGRATIONS, REVISIONS, migrate
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import QUEUE_MAX, Sql

SETTINGS = tables.settings
ROOMS = (tables_billing, tables_idempotency, tables_ledger, tables_release, tables_tenancy)
"""Imported, so that the metadata knows of all tables."""


@asynccontextmanager
async def opened(url: str, timeout_s: float = 30.0) -> AsyncIterator[Sql]:
    sql = await open_sql(url, timeout_s=timeout_s)
    try:
        yield sql
    finally:
        await sql.aclose()


def put(name: str, value: str = "1") -> Any:
    return lambda db: db.execute(sa.insert(SETTINGS).values(name=name, value=value))


def names(db: Connection) -> list[str]:
    return list(db.execute(sa.select(SETTINGS.c.name).order_by(SETTINGS.c.name)).scalars())


def all_rows(table: sa.Table, db: sa.Connection) -> list[dict[str, Any]]:
    return [dict(row) for row in db.execute(sa.select(table).order_by("id")).mappings()]


def test_a_transaction_commits_what_it_did_and_gives_what_it_returns(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:

            def work(db: Connection) -> str:
                put("a", "one")(db)
                return "done"

            assert await sql.run(work) == "done"
        async with opened(sql_url) as again:
            assert await again.read(names) == ["a"]

    asyncio.run(main())


def test_a_transaction_that_raises_leaves_nothing(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:

            def work(db: Connection) -> None:
                put("a")(db)
                raise LookupError("changed my mind")

            with pytest.raises(LookupError):
                await sql.run(work)
            await sql.run(put("b"))
            with pytest.raises(sa.exc.IntegrityError) as caught:
                await sql.run(put("b", "very secret"))
            assert "very secret" not in str(caught.value)
            assert await sql.read(names) == ["b"]

    asyncio.run(main())


def test_every_column_gives_back_what_was_put_in(sql_url: str) -> None:
    key = {
        "id": "key_1", "hash": "h", "prefix": "hg-12", "name": "n", "tenant": "t", "scopes": ["admin"], "models": None,
        "limits": {"requests_per_minute": 5}, "created_at": 1_700_000_000.123456, "expires_at": None, "revoked_at": 0.5,
        "kind": "project", "user_id": None, "account_id": None, "policy": None, "version": 0,
    }  # fmt: skip
    row = {
        "id": "a_1", "call_id": "c", "attempt": 1, "tenant": "t", "key_id": "k", "user_id": None, "operation": "chat",
        "model": "m", "backend": "b", "upstream_model": "u", "started_at": 1_700_000_000.000001, "duration_ms": 1.5,
        "ttft_ms": None, "outcome": "ok", "status": 200, "code": None, "stream": True, "input_tokens": 2**40,
        "cached_tokens": 0, "cache_write_tokens": 0, "output_tokens": 7, "reasoning_tokens": 0, "estimated": False,
        "cost_nanos": 2**53 + 1, "price_version": None, "tags": {"über": "☂ \x01"},
        "session": None, "corrects": None, "replica": "gpus-2", "reason": "retry", "begun_ms": 0.25, "queue_ms": None,
        "overhead_ms": 1.125, "passed_over": "gpus-1: open",
    }  # fmt: skip

    async def main() -> None:
        async with opened(sql_url) as sql:
            await sql.run(lambda db: db.execute(sa.insert(tables_tenancy.keys).values(key)))
            free = {**row, "id": "a_2", "cost_nanos": None}
            await sql.run(lambda db: db.execute(sa.insert(tables_ledger.ledger), [row, free]))

            kept = {
                table.name: await sql.read(partial(all_rows, table))
                for table in (tables_tenancy.keys, tables_ledger.ledger)
            }
            assert kept == {"keys": [key], "ledger": [row, free]}
            nulls = (
                sa.select(sa.func.count())
                .select_from(tables_tenancy.keys)
                .where(tables_tenancy.keys.c.models.is_(None))
            )
            assert await sql.read(lambda db: db.execute(nulls).scalar()) == 1
            total = sa.select(sa.func.sum(tables_ledger.ledger.c.cost_nanos))
            assert int(await sql.read(lambda db: db.execute(total).scalar()) or 0) == 2**53 + 1

    asyncio.run(main())


def test_a_reader_cannot_write(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:
            with pytest.raises(Overloaded, match="read"):
                await sql.read(put("a"))
            await sql.run(put("b"))
            assert await sql.read(names) == ["b"]

    asyncio.run(main())


def test_a_reader_waits_for_no_writer_and_sees_one_snapshot(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:
            written, looked = threading.Event(), threading.Event()

            def write(db: Connection) -> None:
                put("new")(db)
                written.set()
                assert looked.wait(20)

            writer = asyncio.ensure_future(sql.run(write))
            await asyncio.to_thread(written.wait, 20)
            assert await sql.read(names) == []
            looked.set()
            await writer

            first, second = threading.Event(), threading.Event()

            def read_twice(db: Connection) -> tuple[list[str], list[str]]:
                before = names(db)
                first.set()
                assert second.wait(20)
                return before, names(db)

            reader = asyncio.ensure_future(sql.read(read_twice))
            await asyncio.to_thread(first.wait, 20)
            await sql.run(put("newer"))
            second.set()
            assert await reader == (["new"], ["new"])

    asyncio.run(main())


def test_racing_writers_of_two_processes_lose_no_update(sql_url: str) -> None:
    """Each reads, then writes: the pattern that loses updates, or fails, where the database lets it."""

    def bump(db: Connection) -> None:
        locked = sa.select(tables.versions.c.version).where(tables.versions.c.name == "n").with_for_update()
        version = db.execute(locked).scalar_one()
        db.execute(sa.update(tables.versions).where(tables.versions.c.name == "n").values(version=version + 1))

    async def main() -> None:
        async with opened(sql_url) as one, opened(sql_url) as other:
            await one.run(lambda db: db.execute(sa.insert(tables.versions).values(name="n", version=0)))
            await asyncio.gather(*((one, other)[number % 2].run(bump) for number in range(60)))
            query = sa.select(tables.versions.c.version)
            assert await one.read(lambda db: db.execute(query).scalar()) == 60

    asyncio.run(main())


@pytest.mark.parametrize("leave", ["timeout", "cancel"])
def test_a_caller_who_leaves_gets_a_rollback(sql_url: str, leave: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:
            wrote, gone = threading.Event(), threading.Event()

            def work(db: Connection) -> None:
                put("a")(db)
                wrote.set()
                assert gone.wait(20)

            task = asyncio.ensure_future(sql.run(work, timeout_s=0.5 if leave == "timeout" else 20))
            await asyncio.to_thread(wrote.wait, 20)
            if leave == "cancel":
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                with pytest.raises(Overloaded, match=r"within 0\.5 s"):
                    await task
            gone.set()
            await sql.run(put("b"))
            assert await sql.read(names) == ["b"]

    asyncio.run(main())


def test_a_slow_statement_is_stopped_and_its_place_is_free_again(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url, timeout_s=1.0) as sql:
            endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n"
            for _ in range(2):
                with pytest.raises(Overloaded, match=r"try again shortly|took too long"):
                    await sql.run(lambda db: db.execute(sa.text(endless)).scalar())
            await sql.run(put("a"), timeout_s=20)
            assert await sql.read(names, timeout_s=20) == ["a"]

    asyncio.run(main())


def test_too_much_waiting_work_is_refused_and_closing_ends_the_rest(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:
            hold = threading.Event()
            waiting = [asyncio.ensure_future(sql.run(lambda db: hold.wait(20))) for _ in range(QUEUE_MAX)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="Too much work"):
                await sql.run(names)
            for task in waiting:
                task.cancel()
            hold.set()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert await sql.read(names) == []
        with pytest.raises(Overloaded, match="shutting down"):
            await sql.run(names)
        await sql.aclose()

    asyncio.run(main())


# Migrations


def test_the_tables_are_those_that_the_migrations_make(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:

            def differences(db: Connection) -> list[Any]:
                context = MigrationContext.configure(db, opts={"compare_type": sql.dialect == "postgresql"})
                return list(compare_metadata(context, tables.metadata))

            assert await sql.run(differences) == []

    asyncio.run(main())


def test_the_list_of_revisions_is_that_of_the_folder() -> None:
    script = ScriptDirectory(str(MIGRATIONS))
    found = [revision.revision for revision in script.walk_revisions()]
    assert tuple(reversed(found)) == REVISIONS
    assert script.get_heads() == [REVISIONS[-1]]


def test_an_up_to_date_database_opens_without_migrating(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:
            assert await sql.run(migrate) is False

    asyncio.run(main())


OPEN = """
import asyncio, sys
from headgate.storage.sql.open import open_sql

async def main():
    sql = await open_sql(sys.argv[1], timeout_s=30)
    await sql.aclose()
    print("alembic" in sys.modules)

sys.stdin.readline()
asyncio.run(main())
"""


def test_processes_that_start_together_migrate_once(sql_url: str) -> None:
    async def main() -> None:
        pipe = asyncio.subprocess.PIPE
        starters = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-W", "error", "-c", OPEN, sql_url, stdin=pipe, stdout=pipe, stderr=pipe
            )
            for _ in range(4)
        ]
        results = await asyncio.gather(*(starter.communicate(b"go\n") for starter in starters))
        assert [error.decode() for _, error in results] == [""] * 4
        assert sorted(out.strip() for out, _ in results) == [b"False"] * 3 + [b"True"]
        async with opened(sql_url) as sql:
            assert await sql.read(names) == []

    asyncio.run(main())


def test_a_database_of_a_newer_version_is_refused(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:
            await sql.run(lambda db: db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
        with pytest.raises(StorageError, match=r"version 9999.*a newer one made them"):
            await open_sql(sql_url)

    asyncio.run(main())


def test_a_migration_that_fails_leaves_the_database_as_it_was(sql_url: str) -> None:
    async def main() -> None:
        async with opened(sql_url) as sql:

            def spoil(db: Connection) -> None:
                tables.metadata.drop_all(db)
                db.execute(sa.text("DROP TABLE alembic_version"))
                db.execute(sa.text("CREATE TABLE versions (other integer)"))  # in the way of the migration's own

            await sql.run(spoil)
            with pytest.raises((sa.exc.ProgrammingError, Overloaded), match="versions"):
                await sql.run(migrate)
            found = await sql.read(lambda db: sa.inspect(db).get_table_names())
            assert found == ["versions"]

    asyncio.run(main())
