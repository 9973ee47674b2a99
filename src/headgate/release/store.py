"""The release room's tables. The only module of this room that knows SQL.

Changes run one after the other, in whatever process: the first thing each takes is the row of the version that
replicas poll for. Each is written with its line of the audit log, or not at all.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection

from headgate.core.errors import Bug
from headgate.core.ids import Ids
from headgate.core.switches import Kind, Switch
from headgate.storage.sql import tables
from headgate.storage.sql import tables_release as own
from headgate.storage.sql.errors import unavailable
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import bump, insert
from headgate.tenancy.desk import Change
from headgate.tenancy.records import Actor
from headgate.tenancy.store import Books, sayable

_VERSION = "switches"
_NOW = {
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
}
"""The database's own clock: those of the replicas may differ, and one that is thought dead is not waited for."""
T = TypeVar("T")
_s, _r = own.switches.c, own.replicas.c


class Replica(Struct, frozen=True):
    """A server process, as it last wrote."""

    instance: str
    host: str
    version: int
    """Of the switches that it has in force; -1 before its first."""
    silent_s: float
    """Seconds since then."""


class Shelf:
    """One transaction, in the words of this room. `change` writes the audit log in it."""

    def __init__(self, db: Connection, change: Change) -> None:
        self._db = db
        self.change = change

    def all(self) -> list[Switch]:
        return _all(self._db)

    def get(self, switch_id: str) -> Switch | None:
        if not sayable(switch_id):
            return None
        return next(iter(_found(self._db, _s.id == switch_id)), None)

    def named(self, kind: Kind, name: str) -> Switch | None:
        return next(iter(_found(self._db, sa.and_(_s.kind == kind, _s.name == name))), None)

    def put(self, switch: Switch) -> None:
        """In place of the one of its kind and name."""
        self._db.execute(sa.delete(own.switches).where(_s.kind == switch.kind, _s.name == switch.name))
        self._db.execute(sa.insert(own.switches).values(msgspec.to_builtins(switch)))

    def remove(self, switch_id: str) -> None:
        self._db.execute(sa.delete(own.switches).where(_s.id == switch_id))

    def prune(self, before: float) -> None:
        """Removes those that ended before then."""
        self._db.execute(sa.delete(own.switches).where(_s.expires_at < before))


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def change(self, by: Actor, now: float, ids: Ids, work: Callable[[Shelf], T]) -> tuple[T, int]:
        """Runs `work` alone. What it returned, and the version it made. What it raises undoes it all."""

        def whole(db: Connection) -> tuple[T, int]:
            bump(db, _VERSION)  # first: its row's lock keeps other changes out until this one is committed
            return work(Shelf(db, Change(Books(db), by, now, ids))), _version(db)

        return await self._sql.run(whole)

    async def version(self, timeout_s: float) -> int:
        """Grows with every change, in whatever process."""
        return await self._follow(_version, timeout_s)

    async def switches(self, timeout_s: float | None = None) -> tuple[int, list[Switch]]:
        """Of one moment: the version and all that belongs to it, ended ones too."""
        return await self._follow(lambda db: (_version(db), _all(db)), timeout_s)

    async def acknowledge(self, instance: str, host: str, version: int, timeout_s: float) -> None:
        """This process has that version in force, as of now."""

        def work(db: Connection) -> None:
            row = {"host": host, "version": version, "seen_at": _now(db)}
            put = insert(db, own.replicas).values(instance=instance, **row)
            db.execute(put.on_conflict_do_update(index_elements=["instance"], set_=row))

        await self._sql.run(work, timeout_s=timeout_s)

    async def leave(self, instance: str, forget_s: float, timeout_s: float) -> None:
        """This process serves no more; nor do those that have been silent for `forget_s` seconds."""

        def work(db: Connection) -> None:
            gone = sa.or_(_r.instance == instance, _r.seen_at < _now(db) - forget_s)
            db.execute(sa.delete(own.replicas).where(gone))

        await self._sql.run(work, timeout_s=timeout_s)

    async def replicas(self, forget_s: float, timeout_s: float) -> list[Replica]:
        """Those that were heard of within `forget_s` seconds, by name."""

        def work(db: Connection) -> list[Replica]:
            silent = _now(db) - _r.seen_at
            query = sa.select(_r.instance, _r.host, _r.version, silent).where(silent < forget_s)
            return [Replica(*row) for row in db.execute(query.order_by(_r.host, _r.instance))]

        return await self._follow(work, timeout_s)

    async def _follow(self, work: Callable[[Connection], T], timeout_s: float | None) -> T:
        """Raises `Overloaded` even where a table is not there, as while a backup is being put back."""
        try:
            return await self._sql.read(work, timeout_s=timeout_s)
        except sa.exc.SQLAlchemyError as error:
            raise unavailable(error) from error


def _now(db: Connection) -> sa.ColumnElement[float]:
    return sa.literal_column(_NOW[db.dialect.name], sa.Double)


def _version(db: Connection) -> int:
    query = sa.select(tables.versions.c.version).where(tables.versions.c.name == _VERSION)
    return int(db.execute(query).scalar() or 0)


def _all(db: Connection) -> list[Switch]:
    return _found(db, sa.true())


def _found(db: Connection, where: sa.ColumnElement[bool]) -> list[Switch]:
    """Newest first. Raises `Bug` for what this version cannot read."""
    query = sa.select(own.switches).where(where).order_by(_s.created_at.desc(), _s.id.desc())
    rows = ({str(name): value for name, value in row.items()} for row in db.execute(query).mappings())
    try:
        return [msgspec.convert(row, Switch) for row in rows]
    except msgspec.ValidationError as error:
        raise Bug(f"The database holds a kill switch that this version cannot read: {error}.") from error
