"""The people of the organization: added, given a role, removed."""

import re
from collections.abc import Sequence

from msgspec import structs

from headgate.core.errors import BadCall, Conflict
from headgate.tenancy.desk import Change, Desk, check_name, missing, need
from headgate.tenancy.records import Actor, Member, OrganizationRole, ProjectRole, User
from headgate.tenancy.store import Books, Condition, Page

EMAIL_MAX = 254
"""RFC 5321, section 4.5.3.1.3, less the angle brackets."""
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")


class Users:
    """The service. A removed user's record stays, for the ledger and the log."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(
        self,
        email: str,
        role: OrganizationRole,
        by: Actor,
        name: str = "",
        projects: Sequence[tuple[str, ProjectRole]] = (),
    ) -> User:
        """A user who is there at once, a member of `projects`. Raises `BadCall` and `Conflict`."""
        email = _checked_email(email)
        if name:
            check_name(name, "user")

        def work(change: Change) -> User:
            if change.books.find(User, ("email", "=", email), ("removed_at", "=", None)):
                raise Conflict(f"There is a user with the address {email}; update that one.", param="email")
            user = User(change.new_id("user"), name or email.partition("@")[0], email, role, change.now)
            change.books.put(user)
            change.note("user.added", user.id, None, None, user)
            for project_id, project_role in projects:
                change.project(project_id)
                member = Member(project_id, user.id, project_role, change.now)
                change.books.put(member)
                change.note("project.user.added", user.id, project_id, None, member)
            return user

        return await self._desk.change(by, work)

    async def get(self, user_id: str) -> User:
        """Raises `NotFound`."""
        return await self._desk.store.look(lambda books: _present(books, user_id))

    async def memberships(self, user_ids: Sequence[str]) -> list[Member]:
        return await self._desk.store.look(lambda books: books.find(Member, ("user_id", "in", user_ids)))

    async def page(self, page: Page, emails: Sequence[str] = ()) -> list[User]:
        where: list[Condition] = [("removed_at", "=", None)]
        if emails:
            where.append(("email", "in", [email.lower() for email in emails]))
        return await self._desk.page(User, page, *where)

    async def update(self, user_id: str, by: Actor, role: OrganizationRole | None, name: str | None = None) -> User:
        if name is not None:
            check_name(name, "user")

        def work(change: Change) -> User:
            before = _present(change.books, user_id)
            after = structs.replace(before, role=role or before.role, name=name or before.name)
            change.books.put(after)
            change.note("user.updated", user_id, None, before, after)
            return after

        return await self._desk.change(by, work)

    async def remove(self, user_id: str, by: Actor) -> None:
        """The user's keys stop working for good. Raises `NotFound`."""

        def work(change: Change) -> None:
            before = _present(change.books, user_id)
            after = structs.replace(before, removed_at=change.now)
            change.books.put(after)
            change.books.remove(Member, ("user_id", "=", user_id))
            change.note("user.deleted", user_id, None, before, after)

        await self._desk.change(by, work)


def _present(books: Books, user_id: str) -> User:
    user = need(books, User, user_id, "user")
    if user.removed_at is not None:
        raise missing("user", user_id)
    return user


def _checked_email(email: str) -> str:
    if not _EMAIL.fullmatch(email) or len(email) > EMAIL_MAX or not email.isprintable():
        raise BadCall(f"'{email[:100]}' is no e-mail address; write name@example.com.", param="email")
    return email.lower()
