"""What the request path knows of keys: a table in memory, replaced whole whenever SQL has another version."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from msgspec import structs

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.policy import Governed, Level, Policy
from headgate.core.principal import KeyLimits, KeyTable, Principal, Scope
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.tenancy.records import Stop
from headgate.tenancy.store import Rows, Store, policy_of

POLL_SECONDS = 0.25
"""How often a replica looks whether another process changed something."""
LOOK_SECONDS = 2.0
"""How long that look may take before SQL counts as away."""
LOAD_SECONDS = 10.0
MEMBERS_ONLY = "not_a_member"
_NO_POLICY = Policy()
Bases = dict[tuple[str, str | None], tuple[Governed, ...]]
"""The policies above a key's own, by project and user."""


class Snapshots:
    """Makes tables and hands them to `publish`. While SQL is away the last one serves on, marked stale."""

    def __init__(self, store: Store, clock: Clock, publish: Callable[[KeyTable], None], log: Log) -> None:
        self._store = store
        self._clock = clock
        self._publish = publish
        self._log = log
        self._turn = asyncio.Lock()
        self._governed: dict[tuple[Level, str], Governed] = {}
        self._bases: Bases = {}
        self._due = float("inf")
        """When the first stop in force ends."""
        self.table = KeyTable(-1, {})

    async def refresh(self) -> None:
        """Publishes a new table if SQL has another version than the one published last, or a stop has ended.

        One at a time: a slow one could otherwise publish last what it read first, and a revoked key would live again.
        """
        async with self._turn:
            now = self._clock.now()
            version = await self._store.version(LOOK_SECONDS)
            if version == self.table.version and now < self._due:
                if self.table.stale:
                    self._swap(structs.replace(self.table, stale=False))
                return
            self._swap(await self._store.rows(now, self._made))
        self._log.event(names.KEYS_CHANGED, "debug", version=self.table.version, valid=len(self.table.by_hash))

    async def follow(self) -> None:
        """After a change of our own, which is committed: should SQL be away now, `watch` brings it later."""
        try:
            await self.refresh()
        except HeadgateError as error:
            self._away(str(error))

    async def watch(self, rng: random.Random) -> None:
        """Until cancelled: follows changes made by other processes."""
        while True:
            await self._clock.sleep(POLL_SECONDS * rng.uniform(0.8, 1.2))
            try:
                async with asyncio.timeout(LOAD_SECONDS):
                    await self.refresh()
            except (HeadgateError, TimeoutError) as error:
                self._away(str(error) or "no answer in time")

    def _away(self, error: str) -> None:
        if not self.table.stale:
            self._swap(structs.replace(self.table, stale=True))
            self._log.event(names.KEYS_STALE, "warning", error=error)

    def _swap(self, table: KeyTable) -> None:
        self.table = table
        self._publish(table)

    def _made(self, rows: Rows) -> KeyTable:
        """What did not change is the same object as before: plans are cached by it."""
        governed: dict[tuple[Level, str], Governed] = {}

        def rule(level: Level, owner: str, policy: Policy | None) -> None:
            if policy is not None and policy != _NO_POLICY:
                old = self._governed.get((level, owner))
                governed[level, owner] = old if old and old.policy == policy else Governed(level, owner, policy)

        rule("organization", rows.organization.id, rows.organization.policy)
        for project in rows.projects:
            rule("project", project.id, project.policy)
        for user in rows.users:
            rule("user", user.id, user.policy)
        for row in rows.keys:
            if row["policy"] is not None:
                rule("key", row["id"], policy_of(row["policy"]))
        self._governed = governed
        self._due = min((stop.until for stop in rows.stops), default=float("inf"))
        maker = _Maker(rows, governed, self.table, self._bases)
        table = maker.table()
        self._bases = maker.bases
        return table


class _Maker:
    """One table in the making."""

    def __init__(
        self, rows: Rows, governed: dict[tuple[Level, str], Governed], previous: KeyTable, bases: Bases
    ) -> None:
        self._rows = rows
        self._governed = governed
        self._previous = previous
        self._archived = {project.id for project in rows.projects if project.archived_at is not None}
        self._present = {user.id for user in rows.users if user.removed_at is None}
        self._members = set(rows.members)
        self._blocked = {stop.project: said(stop) for stop in rows.stops}
        self._old_bases = bases
        self.bases: Bases = {}

    def table(self) -> KeyTable:
        valid: dict[str, Principal] = {}
        ended: dict[str, str] = {}
        known = self._previous.by_hash
        for row in self._rows.keys:
            hashed = row["hash"]
            code = self._ended(row["tenant"], row["user_id"])
            if code is not None:
                ended[hashed] = code
                continue
            principal, old = self._principal(row), known.get(hashed)
            valid[hashed] = old if old == principal else principal
        return KeyTable(self._rows.version, valid, ended)

    def _ended(self, project: str, user: str | None) -> str | None:
        if project in self._archived:
            return "project_archived"
        if user is None:
            return None
        if user not in self._present:
            return "user_removed"
        return None if (project, user) in self._members else MEMBERS_ONLY

    def _principal(self, row: dict[str, Any]) -> Principal:
        project, user = row["tenant"], row["user_id"]
        policies = self._base(project, user)
        own = self._governed.get(("key", row["id"])) if row["policy"] is not None else None
        models, limits = row["models"], row["limits"]
        scopes: list[Scope] = row["scopes"]
        return Principal(
            key_id=row["id"],
            tenant=project,
            scopes=frozenset(scopes),
            name=row["name"],
            models=None if models is None else tuple(models),
            expires_at=row["expires_at"],
            limits=KeyLimits(**limits) if limits else KeyLimits(),
            user_id=user,
            policies=policies if own is None else (*policies, own),
            blocked=self._blocked.get(project),
        )

    def _base(self, project: str, user: str | None) -> tuple[Governed, ...]:
        """The policies above a key's own; one object for all keys that share them."""
        place = (project, user)
        base = self.bases.get(place)
        if base is None:
            above: list[tuple[Level, str]] = [("organization", self._rows.organization.id), ("project", project)]
            if user is not None:
                above.append(("user", user))
            base = tuple(self._governed[owner] for owner in above if owner in self._governed)
            old = self._old_bases.get(place)
            base = self.bases[place] = old if old == base else base
        return base


def said(stop: Stop) -> str:
    """What callers are told."""
    until = datetime.fromtimestamp(stop.until, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"This project's calls are stopped until {until} UTC: {stop.reason} "
        "An administrator can let them go on earlier: headgate budgets release PROJECT."
    )
