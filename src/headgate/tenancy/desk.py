"""How every change is made: in one transaction with its line in the audit log, and in force here when it returns."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, NotFound
from headgate.core.ids import Ids
from headgate.tenancy.records import Actor, Entry, Project
from headgate.tenancy.store import Books, Condition, Page, R, Store

T = TypeVar("T")
NAME_MAX = 200
_UNTOLD = frozenset({"prefix", "hash"})
"""Fields that no line of the audit log repeats."""


class Change:
    """A transaction, who makes it, and when."""

    def __init__(self, books: Books, by: Actor, now: float, ids: Ids) -> None:
        self.books = books
        self.by = by
        self.now = now
        self._ids = ids

    def new_id(self, prefix: str) -> str:
        return self._ids.new(prefix)

    def note(
        self, kind: str, target: str, project: str | None, before: Struct | None = None, after: Struct | None = None
    ) -> None:
        """Writes a line, unless both sides are given and are the same.

        Fields that stayed as they were are left out. One that is on one side alone came, or went.
        """
        old, new = _told(before), _told(after)
        if old is not None and new is not None:
            if old == new:
                return
            old, new = _unlike(old, new), _unlike(new, old)
        self.books.add(
            Entry(
                id=self._ids.new("audit"),
                type=kind,
                at=self.now,
                actor=self.by.key,
                actor_user=self.by.user,
                address=self.by.address,
                project=project,
                target=target,
                before=old,
                after=new,
            )
        )

    def project(self, project_id: str, field: str = "project_id") -> Project:
        """One that is not archived. Raises `NotFound` or `BadCall`."""
        project = need(self.books, Project, project_id, "project")
        if project.archived_at is not None:
            raise BadCall(
                f"The project '{project_id[:100]}' is archived; use another, or make a new one.",
                code="project_archived",
                param=field,
            )
        return project


class Desk:
    """Runs changes, and looks things up."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, follow: Callable[[], Awaitable[None]]) -> None:
        self.store = store
        self.clock = clock
        self._ids = ids
        self._follow = follow

    async def change(self, by: Actor, work: Callable[[Change], T]) -> T:
        """Effective in this process when it returns, in others within `snapshot.POLL_SECONDS`."""
        now = self.clock.now()
        result = await self.store.change(lambda books: work(Change(books, by, now, self._ids)))
        await self._follow()
        return result

    async def get(self, kind: type[R], record_id: str, what: str) -> R:
        """Raises `NotFound`."""
        return await self.store.look(lambda books: need(books, kind, record_id, what))

    async def page(self, kind: type[R], page: Page, *where: Condition, by: str = "id") -> list[R]:
        """One record more than the page's limit where there is more. Raises `BadCall` for an unknown cursor."""
        found = await self.store.look(lambda books: books.page(kind, page, where, by))
        if found is None:
            name = "after" if page.after is not None else "before"
            raise BadCall(
                f"'{name}' is not the id of anything in this list; take one from a page of it.",
                param=name,
                code="invalid_value",
            )
        return found


def need(books: Books, kind: type[R], record_id: str, what: str) -> R:
    record = books.get(kind, record_id)
    if record is None:
        raise missing(what, record_id)
    return record


def missing(what: str, record_id: str) -> NotFound:
    shown = record_id[:100]
    return NotFound(
        f"There is no {what} '{shown}'. List them to see their ids.", code=f"{what.replace(' ', '_')}_not_found"
    )


def check_name(name: str, what: str) -> None:
    if not 0 < len(name) <= NAME_MAX or not name.isprintable() or name.isspace():
        raise BadCall(f"A {what}'s name has 1 to {NAME_MAX} characters, all printable.", param="name")


def _unlike(fields: dict[str, Any], others: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in others or others[name] != value}


def _told(record: Struct | None) -> dict[str, Any] | None:
    if record is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(record)
    return {name: value for name, value in fields.items() if name not in _UNTOLD and value is not None}
