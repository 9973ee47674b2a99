"""Projects: made, renamed, archived; who belongs to them; their service accounts."""

from msgspec import structs

from headgate.core.errors import BadCall, Conflict
from headgate.tenancy.desk import Change, Desk, check_name, missing, need
from headgate.tenancy.keyring import KeyRecord
from headgate.tenancy.keys import add_account, end_key
from headgate.tenancy.records import Account, Actor, Member, Project, ProjectRole, User
from headgate.tenancy.store import Books, Page


class Projects:
    """The service. A project's id is the tenant of its keys and of the ledger."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, name: str, by: Actor, project_id: str | None = None) -> Project:
        """With an id of its own, or the one given. Raises `BadCall` for a bad name, `Conflict` for a known id."""
        check_name(name, "project")

        def work(change: Change) -> Project:
            if project_id is not None and change.books.get(Project, project_id) is not None:
                raise Conflict(f"There is a project '{project_id[:100]}' already; choose another name.", param="name")
            project = Project(project_id or change.new_id("proj"), name, change.now)
            change.books.put(project)
            change.note("project.created", project.id, project.id, None, project)
            return project

        return await self._desk.change(by, work)

    async def get(self, project_id: str) -> Project:
        """Raises `NotFound`."""
        return await self._desk.get(Project, project_id, "project")

    async def page(self, page: Page, archived: bool = False) -> list[Project]:
        return await self._desk.page(Project, page, *(() if archived else (("archived_at", "=", None),)))

    async def named(self, name: str) -> list[Project]:
        """Those that are not archived: names need not differ."""
        return await self._desk.store.look(
            lambda books: books.find(Project, ("name", "=", name), ("archived_at", "=", None))
        )

    async def rename(self, project_id: str, name: str, by: Actor) -> Project:
        check_name(name, "project")

        def work(change: Change) -> Project:
            before = change.project(project_id)
            after = structs.replace(before, name=name)
            change.books.put(after)
            change.note("project.updated", project_id, project_id, before, after)
            return after

        return await self._desk.change(by, work)

    async def archive(self, project_id: str, by: Actor) -> Project:
        """Its keys stop working; what it did stays in ledger and log. There is no way back; twice is once.

        Raises `NotFound`, and `Conflict` for the project that keys without a tenant belong to.
        """
        if project_id == "default":
            raise Conflict("The project 'default' is always there; revoke its keys instead.")

        def work(change: Change) -> Project:
            before = need(change.books, Project, project_id, "project")
            if before.archived_at is not None:
                return before
            after = structs.replace(before, archived_at=change.now)
            change.books.put(after)
            change.note("project.archived", project_id, project_id, before, after)
            return after

        return await self._desk.change(by, work)

    async def members(self, project_id: str, page: Page) -> list[tuple[Member, User]]:
        """Raises `NotFound`."""
        await self.get(project_id)
        found = await self._desk.page(Member, page, ("project", "=", project_id), by="user_id")
        ids = tuple(member.user_id for member in found)
        users = await self._desk.store.look(lambda books: books.find(User, ("id", "in", ids)))
        by_id = {user.id: user for user in users}
        return [(member, by_id[member.user_id]) for member in found]

    async def member(self, project_id: str, user_id: str) -> tuple[Member, User]:
        """Raises `NotFound`."""
        return await self._desk.store.look(lambda books: _member(books, project_id, user_id))

    async def set_member(self, project_id: str, user: str, role: ProjectRole, by: Actor) -> tuple[Member, User]:
        """Adds a user, named by id or e-mail address, or gives one another role. Raises `NotFound`."""

        def work(change: Change) -> tuple[Member, User]:
            change.project(project_id)
            found = present_user(change.books, user)
            old = next(iter(change.books.find(Member, ("project", "=", project_id), ("user_id", "=", found.id))), None)
            member = Member(project_id, found.id, role, old.added_at if old else change.now)
            change.books.put(member)
            change.note("project.user.updated" if old else "project.user.added", found.id, project_id, old, member)
            return member, found

        return await self._desk.change(by, work)

    async def remove_member(self, project_id: str, user_id: str, by: Actor) -> None:
        """The user's keys in the project stop working; they work again if the user comes back. Raises `NotFound`."""

        def work(change: Change) -> None:
            member, _ = _member(change.books, project_id, user_id)
            change.books.remove(Member, ("project", "=", project_id), ("user_id", "=", user_id))
            change.note("project.user.deleted", user_id, project_id, member, None)

        await self._desk.change(by, work)


class Accounts:
    """Service accounts of projects."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, project_id: str, name: str, by: Actor) -> Account:
        """Without a key; `Keys.create_account` makes one with it."""
        check_name(name, "service account")
        return await self._desk.change(by, lambda change: add_account(change, project_id, name))

    async def get(self, project_id: str, account_id: str) -> Account:
        """Raises `NotFound`."""
        return await self._desk.store.look(lambda books: _account(books, project_id, account_id))

    async def page(self, project_id: str, page: Page) -> list[Account]:
        await self._desk.get(Project, project_id, "project")
        return await self._desk.page(Account, page, ("project", "=", project_id), ("removed_at", "=", None))

    async def update(
        self, project_id: str, account_id: str, name: str | None, role: ProjectRole | None, by: Actor
    ) -> Account:
        if name is not None:
            check_name(name, "service account")

        def work(change: Change) -> Account:
            before = _account(change.books, project_id, account_id)
            after = structs.replace(before, name=name or before.name, role=role or before.role)
            change.books.put(after)
            change.note("service_account.updated", account_id, project_id, before, after)
            return after

        return await self._desk.change(by, work)

    async def remove(self, project_id: str, account_id: str, by: Actor) -> None:
        """Its keys are revoked. Raises `NotFound`."""

        def work(change: Change) -> None:
            before = _account(change.books, project_id, account_id)
            after = structs.replace(before, removed_at=change.now)
            change.books.put(after)
            for key in change.books.find(KeyRecord, ("account_id", "=", account_id), ("revoked_at", "=", None)):
                end_key(change, key)
            change.note("service_account.deleted", account_id, project_id, before, after)

        await self._desk.change(by, work)


def present_user(books: Books, user: str) -> User:
    """By id or e-mail address. Raises `BadCall`."""
    column = "email" if "@" in user else "id"
    found = books.find(User, (column, "=", user.lower() if column == "email" else user), ("removed_at", "=", None))
    if not found:
        raise BadCall(
            f"There is no user '{user[:100]}'. Add one first: headgate users create, or POST /v1/organization/users.",
            param="email" if column == "email" else "user_id",
            code="user_not_found",
        )
    return found[0]


def _member(books: Books, project_id: str, user_id: str) -> tuple[Member, User]:
    need(books, Project, project_id, "project")
    found = books.find(Member, ("project", "=", project_id), ("user_id", "=", user_id))
    if not found:
        raise missing("user", user_id)
    return found[0], need(books, User, user_id, "user")


def _account(books: Books, project_id: str, account_id: str) -> Account:
    need(books, Project, project_id, "project")
    account = books.get(Account, account_id)
    if account is None or account.project != project_id or account.removed_at is not None:
        raise missing("service account", account_id)
    return account
