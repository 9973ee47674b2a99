"""The tenancy room's tables. The only module of this room that knows SQL.

A transaction is a function of `Books`, run whole or not at all. Functions that change something run one after the
other, in whatever process: the first thing each takes is the row of the version that replicas poll for.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection

from headgate.core.errors import Bug
from headgate.core.policy import Policy
from headgate.core.principal import KeyLimits
from headgate.storage.sql import tables
from headgate.storage.sql import tables_tenancy as own
from headgate.storage.sql.errors import unavailable
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import bump, insert
from headgate.tenancy.keyring import KeyRecord
from headgate.tenancy.records import Account, Alert, Entry, Member, Organization, Project, Stop, User

_VERSION = "keys"
PAGE_MAX = 1_000
_UNTOLD = {"hash", "version"}
"""Columns of keys that are not in their records."""

Op = Literal["=", "!=", "<", "<=", ">", ">=", "in", "has"]
Condition = tuple[str, Op, Any]
"""A column, how, and what with. `=` with None asks for nothing there; `has` looks for a text in a list."""
R = TypeVar("R", bound=Struct)
T = TypeVar("T")

_TABLES: dict[type[Struct], tuple[sa.Table, str]] = {
    Organization: (own.organization, "id"),
    Project: (own.projects, "created_at"),
    User: (own.users, "added_at"),
    Member: (own.members, "user_id"),
    Account: (own.accounts, "created_at"),
    KeyRecord: (own.keys, "created_at"),
    Stop: (own.stops, "since"),
    Alert: (own.alerts, "created_at"),
    Entry: (own.audit, "at"),
}
"""Where each kind of record is kept, and the column that says which is newer.

Members, whose rows go, stand in the order of their users' ids, which says as much: so a page can follow one that went.
"""


class Page(Struct, frozen=True):
    """A window on a list: at most `limit`, behind `after` or before `before`, which are ids of the list."""

    limit: int = 20
    after: str | None = None
    before: str | None = None
    newest_first: bool = True


class Rows(Struct, frozen=True):
    """What a snapshot is made of, of one moment."""

    since: int
    """The version that `keys` is complete from; negative: all."""
    version: int
    organization: Organization
    projects: list[Project]
    """Those with a policy, and archived ones."""
    users: list[User]
    """Those with a policy, and removed ones."""
    strangers: list[tuple[str, str]]
    """Projects and users who have keys in them and are no members."""
    stops: list[Stop]
    keys: list[dict[str, Any]]
    """Columns of those that changed since, revoked ones too; not made into records: there may be many."""


class Books:
    """One transaction, in the words of this room."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def get(self, kind: type[R], record_id: str) -> R | None:
        return next(iter(self.find(kind, ("id", "=", record_id))), None)

    def find(self, kind: type[R], *where: Condition) -> list[R]:
        """Newest first."""
        table, newer = _TABLES[kind]
        query = sa.select(table).where(*_conditions(table, where))
        return self._records(kind, query.order_by(table.c[newer].desc(), *table.primary_key.columns))

    def either(self, kind: type[R], *where: Condition) -> list[R]:
        """Those for which at least one holds."""
        table, _ = _TABLES[kind]
        return self._records(kind, sa.select(table).where(sa.or_(*_conditions(table, where))))

    def page(self, kind: type[R], page: Page, where: Sequence[Condition], by: str = "id") -> list[R] | None:
        """One more than the page's limit where there is more. None where its cursor is not in the table."""
        table, newer = _TABLES[kind]
        at, name = table.c[newer], table.c[by]
        query = sa.select(table).where(*_conditions(table, where))
        backwards = page.before is not None and page.after is None
        cursor = page.before if backwards else page.after
        descending = page.newest_first is not backwards
        if cursor is not None:
            # It may have left the list since, archived or revoked, and still be a place in it.
            known = _conditions(table, [one for one in where if one[1] == "=" and one[2] is not None])
            if not sayable(cursor):
                return None
            query_place = sa.select(at).where(name == cursor, *known)
            place = cursor if at is name else self._db.execute(query_place).scalar()
            if place is None:
                return None
            here, there = sa.tuple_(at, name), sa.tuple_(sa.literal(place), sa.literal(cursor))
            query = query.where(here < there if descending else here > there)
        ordered = query.order_by(at.desc(), name.desc()) if descending else query.order_by(at, name)
        found = self._records(kind, ordered.limit(min(page.limit, PAGE_MAX) + 1))
        if not backwards:
            return found
        return found[: page.limit][::-1] + found[page.limit :]

    def put(self, record: Struct) -> None:
        """Adds it, or replaces the one of the same id. Keys have `put_key`."""
        table, _ = _TABLES[type(record)]
        self._upsert(table, _row(record))

    def add(self, record: Entry) -> None:
        """Adds to what is only ever added to."""
        self._db.execute(sa.insert(own.audit).values(_row(record)))

    def put_key(self, record: KeyRecord, hashed: str) -> bool:
        """As `put`; the same key under another id goes. Whether the id had this key before."""
        before = self._db.execute(sa.select(own.keys.c.hash).where(own.keys.c.id == record.id)).scalar()
        self._db.execute(sa.delete(own.keys).where(own.keys.c.hash == hashed, own.keys.c.id != record.id))
        # Not deleted and inserted: replicas that start together with one bootstrap key would collide.
        self._upsert(own.keys, {**_row(record), "hash": hashed, "version": _VERSION_NOW})
        return before == hashed

    def change_key(self, record: KeyRecord) -> None:
        """A key's record anew, its secret as it was."""
        row = {**_row(record), "version": _VERSION_NOW}
        self._db.execute(sa.update(own.keys).where(own.keys.c.id == row.pop("id")).values(row))

    def remove(self, kind: type[Struct], *where: Condition) -> None:
        table, _ = _TABLES[kind]
        self._db.execute(sa.delete(table).where(*_conditions(table, where)))

    def _upsert(self, table: sa.Table, row: dict[str, Any]) -> None:
        keys = [column.name for column in table.primary_key.columns]
        changed = {name: value for name, value in row.items() if name not in keys}
        added = insert(self._db, table).values(row)
        self._db.execute(added.on_conflict_do_update(index_elements=keys, set_=changed))

    def _records(self, kind: type[R], query: sa.Select[Any]) -> list[R]:
        return [_record(kind, dict(row)) for row in self._db.execute(query).mappings()]


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def change(self, work: Callable[[Books], T]) -> T:
        """Runs `work`, which may write, alone. What it raises undoes it all."""

        def whole(db: Connection) -> T:
            bump(db, _VERSION)  # first: its row's lock keeps other changes out until this one is committed
            return work(Books(db))

        return await self._sql.run(whole)

    async def look(self, work: Callable[[Books], T]) -> T:
        """Runs `work`, which only reads, on one moment's state."""
        return await self._sql.read(lambda db: work(Books(db)))

    async def keys(self) -> list[tuple[KeyRecord, str]]:
        """Every key with its hash, newest first."""

        def work(db: Connection) -> list[tuple[KeyRecord, str]]:
            rows = db.execute(sa.select(own.keys).order_by(own.keys.c.created_at.desc())).mappings()
            return [(_record(KeyRecord, dict(row)), str(row["hash"])) for row in rows]

        return await self._sql.read(work)

    async def version(self, timeout_s: float | None = None) -> int:
        """Grows with every change, in whatever process."""
        return await self._follow(_version, timeout_s)

    async def rows(self, now: float, since: int, make: Callable[[Rows], T]) -> T:
        """What `make` makes of everything a snapshot needs: one query per table; `make` runs off the event loop.

        Of keys, those of versions above `since`. Raises `Bug` where the tables hold what this version cannot read.
        """

        def work(db: Connection) -> T:
            try:
                return make(_rows(db, now, since))
            except msgspec.ValidationError as error:
                raise Bug(f"The database holds a policy that this version cannot read: {error}.") from error

        return await self._follow(work)

    async def _follow(self, work: Callable[[Connection], T], timeout_s: float | None = None) -> T:
        """Raises `Overloaded` even where a table is not there, as while a backup is being put back."""
        try:
            return await self._sql.read(work, timeout_s=timeout_s)
        except sa.exc.SQLAlchemyError as error:
            raise unavailable(error) from error


_SNAPSHOT_COLUMNS = (
    "id", "hash", "name", "tenant", "scopes", "models", "limits", "expires_at", "revoked_at", "user_id", "policy",
)  # fmt: skip
_VERSION_NOW = sa.select(tables.versions.c.version).where(tables.versions.c.name == _VERSION).scalar_subquery()


def _rows(db: Connection, now: float, since: int) -> Rows:
    books = Books(db)
    keys, members = own.keys, own.members
    columns = (keys.c[name] for name in _SNAPSHOT_COLUMNS)
    changed = sa.select(*columns).where(keys.c.version > since)
    if since < 0:
        changed = changed.where(keys.c.revoked_at.is_(None))
    there = sa.and_(members.c.project == keys.c.tenant, members.c.user_id == keys.c.user_id)
    strangers = (
        sa.select(keys.c.tenant, keys.c.user_id)
        .distinct()
        .select_from(keys.outerjoin(members, there))
        .where(keys.c.user_id.is_not(None), keys.c.revoked_at.is_(None), members.c.project.is_(None))
    )
    return Rows(
        since=since,
        version=_version(db),
        organization=next(iter(books.find(Organization)), Organization()),
        projects=books.either(Project, ("policy", "!=", None), ("archived_at", "!=", None)),
        users=books.either(User, ("policy", "!=", None), ("removed_at", "!=", None)),
        strangers=[(str(project), str(user)) for project, user in db.execute(strangers)],
        stops=books.find(Stop, ("until", ">", now)),
        keys=[dict(row) for row in db.execute(changed).mappings()],
    )


def _version(db: Connection) -> int:
    query = sa.select(tables.versions.c.version).where(tables.versions.c.name == _VERSION)
    return int(db.execute(query).scalar() or 0)


def _conditions(table: sa.Table, where: Sequence[Condition]) -> list[sa.ColumnElement[bool]]:
    return [_condition(table.c[name], op, value) for name, op, value in where]


def sayable(text: str) -> bool:
    """Whether a database can be asked about it: PostgreSQL refuses a NUL, and nobody takes half an emoji."""
    return "\x00" not in text and text.encode("utf-8", "replace") == text.encode("utf-8", "surrogatepass")


def _condition(column: sa.Column[Any], op: Op, value: Any) -> sa.ColumnElement[bool]:
    if op == "in":
        return column.in_([one for one in value if sayable(one)])
    if isinstance(value, str) and not sayable(value):
        return sa.false()
    if op == "has":
        return sa.cast(column, sa.Text).contains(f'"{value}"', autoescape=True)
    if value is None:
        return column.is_(None) if op == "=" else column.is_not(None)
    compare: dict[str, Callable[[Any], sa.ColumnElement[bool]]] = {
        "=": column.__eq__, "!=": column.__ne__, "<": column.__lt__,
        "<=": column.__le__, ">": column.__gt__, ">=": column.__ge__,
    }  # fmt: skip
    return compare[op](value)


def _row(record: Struct) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(record)
    return row


def _record(kind: type[R], row: dict[str, Any]) -> R:
    row = {
        str(name): value for name, value in row.items() if name not in _UNTOLD
    }  # SQLAlchemy's names are a kind of str
    if kind is KeyRecord:
        row["limits"] = msgspec.convert(row["limits"] or {}, KeyLimits)
    return msgspec.convert(row, kind)


def policy_of(column: dict[str, Any]) -> Policy:
    """A policy as a column holds it."""
    return msgspec.convert(column, Policy)
