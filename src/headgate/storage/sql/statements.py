"""What every store needs of SQL, and SQLAlchemy has per dialect only, or not at all."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from headgate.storage.sql import tables


def insert(db: Connection, table: sa.Table) -> Any:
    """`INSERT … ON CONFLICT` is the same in both dialects, but SQLAlchemy has it per dialect."""
    return (postgresql if db.dialect.name == "postgresql" else sqlite).insert(table)


def plain(text: str) -> str:
    """What may be stored, and looked for: PostgreSQL has no NUL in texts."""
    return text.replace("\x00", "\ufffd")


def bump(db: Connection, name: str) -> None:
    """Raises the version that replicas poll for."""
    first = insert(db, tables.versions).values(name=name, version=1)
    db.execute(first.on_conflict_do_update(index_elements=["name"], set_={"version": tables.versions.c.version + 1}))
