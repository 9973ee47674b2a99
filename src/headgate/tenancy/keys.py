"""API keys: made, listed, revoked. SQL holds the truth; the data plane reads a snapshot of it."""

import random
import secrets
from collections.abc import Callable

from msgspec import structs

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, NotFound
from headgate.core.ids import Ids
from headgate.core.policy import TIME_MAX
from headgate.core.principal import KeyTable, Scope, hash_key
from headgate.telemetry.log import Log
from headgate.tenancy.desk import Change, Desk, check_name
from headgate.tenancy.keyring import CreatedKey, KeyRecord, KeySpec, Kind
from headgate.tenancy.policies import check
from headgate.tenancy.records import SYSTEM, Account, Actor, Member, Project, User
from headgate.tenancy.snapshot import Snapshots
from headgate.tenancy.store import Store

PREFIX = "hg-"
VISIBLE_LENGTH = 11
LIMIT_MAX = 10**12
_SCOPES: tuple[Scope, ...] = ("inference", "admin")


class Keys:
    """The service behind the admin API and the command line. `publish` swaps the snapshot that auth reads."""

    def __init__(
        self, store: Store, secret: bytes, clock: Clock, ids: Ids, publish: Callable[[KeyTable], None], log: Log
    ) -> None:
        self._store = store
        self._secret = secret
        self._clock = clock
        self._snapshots = Snapshots(store, clock, publish, log)
        self.desk = Desk(store, clock, ids, self._snapshots.follow)

    def knows(self, key: str) -> bool:
        """Whether the key is valid in the newest snapshot."""
        return hash_key(self._secret, key) in self._snapshots.table.by_hash

    async def create(
        self, spec: KeySpec, key: str | None = None, key_id: str | None = None, by: Actor = SYSTEM
    ) -> CreatedKey:
        """Makes a key, or registers a given one under a given id (bootstrap).

        A project of that name is made where there is none. Raises `BadCall` on a bad spec.
        """
        _check(spec, self._clock)
        made, hashed = self._new() if key is None else (key, hash_key(self._secret, key))

        def work(change: Change) -> KeyRecord:
            return add_key(change, spec, made, hashed, key_id, None)

        return CreatedKey(await self.desk.change(by, work), made)

    async def create_for(self, account_id: str, project: str, spec: KeySpec, by: Actor) -> CreatedKey:
        """A key of a service account. Raises `NotFound`."""
        spec = structs.replace(spec, tenant=project)
        _check(spec, self._clock)
        key, hashed = self._new()

        def work(change: Change) -> KeyRecord:
            return add_key(change, spec, key, hashed, None, account_id)

        return CreatedKey(await self.desk.change(by, work), key)

    async def create_account(self, project: str, name: str, spec: KeySpec, by: Actor) -> tuple[Account, CreatedKey]:
        """A service account with its first key, both or neither. Raises `BadCall` and `NotFound`."""
        check_name(name, "service account")
        spec = structs.replace(spec, tenant=project)
        _check(spec, self._clock)
        key, hashed = self._new()

        def work(change: Change) -> tuple[Account, KeyRecord]:
            account = add_account(change, project, name)
            return account, add_key(change, spec, key, hashed, None, account.id)

        account, record = await self.desk.change(by, work)
        return account, CreatedKey(record, key)

    def _new(self) -> tuple[str, str]:
        """A key and its hash."""
        key = PREFIX + secrets.token_urlsafe(32)
        return key, hash_key(self._secret, key)

    async def get(self, key_id: str) -> KeyRecord:
        """Raises `NotFound`."""
        return await self.desk.get(KeyRecord, key_id, "key")

    async def list(self) -> list[KeyRecord]:
        """All keys ever made, newest first."""
        return [record for record, _ in await self._store.keys()]

    async def revoke(self, key_id: str, by: Actor = SYSTEM) -> KeyRecord:
        """Effective in this process when it returns, in others within a second. Raises `NotFound`."""

        def work(change: Change) -> KeyRecord:
            record = change.books.get(KeyRecord, key_id)
            if record is None:
                raise no_key(key_id)
            return end_key(change, record)

        return await self.desk.change(by, work)

    async def refresh(self) -> None:
        """Publishes a new snapshot if SQL has another version than the one published last."""
        await self._snapshots.refresh()

    async def watch(self, rng: random.Random) -> None:
        """Until cancelled: follows changes made by other processes. While SQL is away the last snapshot serves on."""
        await self._snapshots.watch(rng)


def no_key(key_id: str) -> NotFound:
    return NotFound(f"There is no key '{key_id[:100]}'. List the keys to see their ids.", code="key_not_found")


def add_key(
    change: Change, spec: KeySpec, key: str, hashed: str, key_id: str | None, account_id: str | None
) -> KeyRecord:
    """Inside a transaction: the key, and the project and the membership it needs."""
    _ensure_project(change, spec.tenant)
    kind: Kind = "admin" if spec.scopes == ("admin",) else "project"
    if account_id is not None:
        account = change.books.get(Account, account_id)
        if account is None or account.removed_at is not None or account.project != spec.tenant:
            raise NotFound(
                f"There is no service account '{account_id[:100]}' in this project. List them to see their ids.",
                code="service_account_not_found",
            )
        kind = "account"
    if spec.user_id is not None:
        _ensure_member(change, spec.tenant, spec.user_id)
        kind = "user"
    known = change.books.get(KeyRecord, key_id) if key_id is not None else None
    record = KeyRecord(
        id=key_id or change.new_id("key"),
        prefix=key[:VISIBLE_LENGTH],
        name=spec.name,
        tenant=spec.tenant,
        scopes=spec.scopes,
        models=spec.models,
        limits=spec.limits,
        created_at=change.now if known is None else known.created_at,
        expires_at=spec.expires_at,
        kind=kind,
        user_id=spec.user_id,
        account_id=account_id,
        policy=spec.policy if known is None else known.policy,
    )
    if change.books.put_key(record, hashed):  # the bootstrap key is registered anew at each start: mostly no news
        change.note("api_key.updated", record.id, record.tenant, known, record)
    else:
        change.note("api_key.created", record.id, record.tenant, None, record)
    return record


def add_account(change: Change, project_id: str, name: str) -> Account:
    """Inside a transaction: a service account of a project. Raises `BadCall` and `NotFound`."""
    change.project(project_id)
    account = Account(change.new_id("svc_acct"), project_id, name, "member", change.now)
    change.books.put(account)
    change.note("service_account.created", account.id, project_id, None, account)
    return account


def end_key(change: Change, record: KeyRecord) -> KeyRecord:
    """Inside a transaction: revokes a key. Twice is once."""
    if record.revoked_at is not None:
        return record
    ended = structs.replace(record, revoked_at=change.now)
    change.books.change_key(ended)
    change.note("api_key.deleted", record.id, record.tenant, record, ended)
    return ended


def _ensure_project(change: Change, project_id: str) -> None:
    if change.books.get(Project, project_id) is not None:
        change.project(project_id, "tenant")
        return
    if project_id.startswith("proj_"):
        raise BadCall(f"There is no project '{project_id}'. List the projects to see their ids.", param="tenant")
    project = Project(project_id, project_id, change.now)
    change.books.put(project)
    change.note("project.created", project.id, project.id, None, project)


def _ensure_member(change: Change, project_id: str, user_id: str) -> None:
    user = change.books.get(User, user_id)
    if user is None or user.removed_at is not None:
        raise BadCall(
            f"There is no user '{user_id[:100]}'. List the users to see their ids.",
            param="user_id",
            code="user_not_found",
        )
    if not change.books.find(Member, ("project", "=", project_id), ("user_id", "=", user_id)):
        member = Member(project_id, user_id, "member", change.now)
        change.books.put(member)
        change.note("project.user.added", user_id, project_id, None, member)


def _check(spec: KeySpec, clock: Clock) -> None:
    if not spec.scopes:
        raise BadCall(f"A key needs at least one scope of: {', '.join(_SCOPES)}.", param="scopes")
    if not spec.tenant or len(spec.tenant) > 100 or not spec.tenant.isprintable() or spec.tenant.isspace():
        raise BadCall("A tenant is 1 to 100 printable characters, not all of them spaces.", param="tenant")
    if len(spec.name) > 200 or not spec.name.isprintable():
        raise BadCall("A key's name has at most 200 characters, all printable.", param="name")
    if spec.models is not None and (
        len(spec.models) > 100 or any(not 0 < len(m) <= 256 or not m.isprintable() for m in spec.models)
    ):
        raise BadCall("A key names at most 100 model patterns of 1 to 256 printable characters.", param="models")
    if spec.expires_at is not None and spec.expires_at <= clock.now():
        raise BadCall("The expiry lies in the past; give a later time.", param="expires_at")
    if spec.expires_at is not None and not spec.expires_at <= TIME_MAX:
        raise BadCall(
            "The expiry is in Unix seconds, before the year 10000; leave it out for never.", param="expires_at"
        )
    for field, value in structs.asdict(spec.limits).items():
        if value is not None and not 1 <= value <= LIMIT_MAX:
            raise BadCall(
                f"A limit lies between 1 and {LIMIT_MAX}; leave it out for the default.", param=f"limits.{field}"
            )
    if spec.policy is not None:
        check(spec.policy, "key", "policy.")
