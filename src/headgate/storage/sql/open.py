"""Opens the database that a setting names, and brings its tables up to date."""

import asyncio

import sqlalchemy as sa

from headgate.storage.errors import StorageError
from headgate.storage.sql import postgres, sqlite
from headgate.storage.sql.migrate import MIGRATION_S, migrate
from headgate.storage.sql.port import Sql

TIMEOUT_S = 10.0


async def open_sql(url: str, *, timeout_s: float = TIMEOUT_S) -> Sql:
    """`sqlite:///path` or `postgresql://user:password@host:port/database`, each transaction within `timeout_s`.

    Raises `StorageError` where the URL, the driver, the file or the tables' version is not usable, and
    `core.errors.Overloaded` where the database cannot be reached at present.
    """
    sql = await asyncio.to_thread(_connect, url, timeout_s)
    try:
        await sql.run(migrate, timeout_s=MIGRATION_S)
    except BaseException:
        await sql.aclose()
        raise
    return sql


def _connect(url: str, timeout_s: float) -> Sql:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        # The URL is not repeated: it may hold a password.
        raise StorageError("storage.sql is no URL; write sqlite:///path or postgresql://user@host/database") from error
    match parsed.drivername:
        case "sqlite":
            return sqlite.connect(parsed, timeout_s)
        case "postgresql" | "postgres" | "postgresql+psycopg":
            return postgres.connect(parsed, timeout_s)
    raise StorageError(f"storage.sql: '{parsed.drivername}' is not known; use sqlite:///path or postgresql://…")
