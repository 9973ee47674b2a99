"""The tenancy room's tables: keys. The only module of this room that knows SQL."""

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.core.principal import KeyLimits
from headgate.storage.sql import tables
from headgate.storage.sql import tables_tenancy as own
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import bump, insert
from headgate.tenancy.keyring import KeyRecord

_KEYS_VERSION = "keys"


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def put_key(self, record: KeyRecord, hashed: str) -> None:
        """Adds a key, or replaces the one with this id; the same key under another id goes."""
        row = {**_key_row(record), "hash": hashed}
        changed = {name: value for name, value in row.items() if name != "id"}

        def work(db: Connection) -> None:
            db.execute(sa.delete(own.keys).where(own.keys.c.hash == hashed, own.keys.c.id != record.id))
            # Not deleted and inserted: replicas that start together with one bootstrap key would collide.
            added = insert(db, own.keys).values(row)
            db.execute(added.on_conflict_do_update(index_elements=["id"], set_=changed))
            bump(db, _KEYS_VERSION)

        await self._sql.run(work)

    async def revoke_key(self, key_id: str, at: float) -> None:
        def work(db: Connection) -> None:
            db.execute(
                sa.update(own.keys)
                .where(own.keys.c.id == key_id, own.keys.c.revoked_at.is_(None))
                .values(revoked_at=at)
            )
            bump(db, _KEYS_VERSION)

        await self._sql.run(work)

    async def keys(self) -> list[tuple[KeyRecord, str]]:
        """Every key with its hash, newest first."""

        def work(db: Connection) -> list[tuple[KeyRecord, str]]:
            rows = db.execute(sa.select(own.keys).order_by(own.keys.c.created_at.desc())).mappings()
            return [(_key_record(dict(row)), str(row["hash"])) for row in rows]

        return await self._sql.read(work)

    async def keys_version(self) -> int:
        """Grows with every change of the keys, in whatever process."""

        def work(db: Connection) -> int:
            query = sa.select(tables.versions.c.version).where(tables.versions.c.name == _KEYS_VERSION)
            return int(db.execute(query).scalar() or 0)

        return await self._sql.read(work)


def _key_row(record: KeyRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "prefix": record.prefix,
        "name": record.name,
        "tenant": record.tenant,
        "scopes": list(record.scopes),
        "models": list(record.models) if record.models is not None else None,
        "limits": msgspec.to_builtins(record.limits),
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "revoked_at": record.revoked_at,
    }


def _key_record(row: dict[str, Any]) -> KeyRecord:
    row = {str(name): value for name, value in row.items() if name != "hash"}  # SQLAlchemy's names are a kind of str
    row["limits"] = msgspec.convert(row["limits"] or {}, KeyLimits)
    return msgspec.convert(row, KeyRecord)
