"""All services of this room over one database."""

from collections.abc import Sequence

from msgspec import Struct

from headgate.core.errors import BadCall
from headgate.tenancy.desk import Desk
from headgate.tenancy.keyring import KeyRecord
from headgate.tenancy.keys import Keys
from headgate.tenancy.policies import Policies
from headgate.tenancy.projects import Accounts, Projects
from headgate.tenancy.records import Account, Actor, Entry, Project, User
from headgate.tenancy.spending import Alerts, Stops
from headgate.tenancy.store import Books, Condition, Page
from headgate.tenancy.users import Users


class AuditFilter(Struct, frozen=True):
    """Which lines of the audit log. Empty: all."""

    types: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    """Ids of keys or of users."""
    emails: tuple[str, ...] = ()
    """Of the users who own the keys."""
    times: tuple[Condition, ...] = ()
    """Bounds on `at`."""


class Audit:
    """The log of every change. Those of this room's records `desk` writes, in the transaction of the change."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def note(self, by: Actor, kind: str, target: str, after: Struct | None = None) -> None:
        """A line about a change that is in no table, written before it is made."""
        await self._desk.change(by, lambda change: change.note(kind, target, None, None, after))

    async def page(self, page: Page, wanted: AuditFilter) -> list[Entry]:
        """Newest first. Raises `BadCall` where actors of two kinds are asked for."""
        where: list[Condition] = list(wanted.times)
        columns = (("type", wanted.types), ("project", wanted.projects), ("target", wanted.targets))
        where += [(name, "in", values) for name, values in columns if values]
        if wanted.actors:
            people = {actor.startswith("user_") for actor in wanted.actors}
            if len(people) > 1:
                raise BadCall("Ask for users or for keys, not both at once.", param="actor_ids", code="invalid_value")
            where.append(("actor_user" if True in people else "actor", "in", wanted.actors))
        if wanted.emails:
            emails = [email.lower() for email in wanted.emails]
            users_named = await self._desk.store.look(lambda books: books.find(User, ("email", "in", emails)))
            where.append(("actor_user", "in", [user.id for user in users_named]))
        return await self._desk.page(Entry, page, *where)


class Tenancy:
    """What the admin API and the command line are handed."""

    def __init__(self, keys: Keys) -> None:
        desk = keys.desk
        self.keys = keys
        self.projects = Projects(desk)
        self.accounts = Accounts(desk)
        self.users = Users(desk)
        self.policies = Policies(desk)
        self.stops = Stops(desk)
        self.alerts = Alerts(desk)
        self.audit = Audit(desk)
        self._desk = desk

    async def project_keys(self, project_id: str, page: Page) -> list[KeyRecord]:
        """Keys of a project that call models and are not revoked. Raises `NotFound`."""
        await self._desk.get(Project, project_id, "project")
        return await self._desk.page(
            KeyRecord, page, ("tenant", "=", project_id), ("revoked_at", "=", None), ("scopes", "has", "inference")
        )

    async def admin_keys(self, page: Page) -> list[KeyRecord]:
        """Every key that may administrate, however it was made."""
        return await self._desk.page(KeyRecord, page, ("revoked_at", "=", None), ("scopes", "has", "admin"))

    async def owners(self, keys: Sequence[KeyRecord]) -> tuple[dict[str, User], dict[str, Account]]:
        """The users and service accounts of keys, by id."""
        users = {key.user_id for key in keys if key.user_id is not None}
        accounts = {key.account_id for key in keys if key.account_id is not None}

        def work(books: Books) -> tuple[dict[str, User], dict[str, Account]]:
            people = {user.id: user for user in books.find(User, ("id", "in", users))}
            return people, {account.id: account for account in books.find(Account, ("id", "in", accounts))}

        return await self._desk.store.look(work)
