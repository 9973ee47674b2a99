"""Brings a database to this version's tables, once, however many processes start together."""

from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.storage.errors import StorageError

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008")
"""Every migration, oldest first. The last is what this version of Headgate works with."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_S = 120.0
"""For all migrations together, the wait for another process that runs them included."""
_LOCK = 0x6865616467617465
"""PostgreSQL's advisory lock of ours: "headgate" in ASCII."""
_VERSION = sa.table("alembic_version", sa.column("version_num", sa.Text))


def migrate(db: Connection) -> bool:
    """Runs the missing migrations inside the caller's transaction; False where none was missing.

    The transaction itself keeps others out on SQLite (it began IMMEDIATE), a lock held to its end on PostgreSQL.
    Raises `StorageError` where the tables are of a newer Headgate than this.
    """
    if current(db) == REVISIONS[-1]:
        return False
    if db.dialect.name == "postgresql":
        db.execute(sa.text(f"SET LOCAL statement_timeout = {int(MIGRATION_S * 1000)}"))
        db.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if current(db) == REVISIONS[-1]:
            return False
    # Here and not above: Alembic takes longer to import than most starts take to find that nothing is missing.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    command.upgrade(config, "head")
    return True


def current(db: Connection) -> str | None:
    """The revision of the tables; None for an empty database. Raises `StorageError` for one this version lacks."""
    if not sa.inspect(db).has_table(_VERSION.name):
        return None
    found: str | None = db.execute(sa.select(_VERSION.c.version_num)).scalar()
    if found is not None and found not in REVISIONS:
        raise StorageError(
            f"The database's tables are at version {found}, which this Headgate (up to {REVISIONS[-1]}) does not know: "
            "a newer one made them. Run that version, or restore a backup made with this one."
        )
    return found
