"""Makes one table of keys after the other. Whatever did not change is the same object in both: plans are cached by it.

A change costs what it changed, and a walk over the keys that compares identities: with many keys it is still quick.
"""

import threading
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from headgate.core.errors import Overloaded
from headgate.core.policy import Governed, Level, Policy
from headgate.core.principal import KeyLimits, KeyTable, Principal, Scope
from headgate.tenancy.records import Stop
from headgate.tenancy.store import Rows, policy_of

_NO_POLICY = Policy()
_NO_LIMITS = KeyLimits()
Where = tuple[str, str | None]
"""A project, and a user of it or nobody."""


class Place(Struct, frozen=True):
    """What keys of one project and user have in common."""

    ended: str | None
    """Why none of them works."""
    blocked: str | None
    policies: tuple[Governed, ...]


class Kept(Struct, gc=False):
    """A key that is not revoked, and what became of it in the last table."""

    hash: str
    where: Where
    own: Principal
    """Without what its place adds."""
    place: Place | None = None
    """The one that `principal` was made for."""
    principal: Principal | None = None


class Maker:
    """Remembers the keys, so that only changed ones need to be handed in.

    One thread at a time: a load that nobody waits for any more may still run when the next one begins.
    """

    def __init__(self) -> None:
        self._keys: dict[str, Kept] = {}
        self._ids: dict[str, str] = {}
        """By hash."""
        self._places: dict[Where, Place] = {}
        self._governed: dict[tuple[Level, str], Governed] = {}
        self._scopes: dict[tuple[Scope, ...], frozenset[Scope]] = {}
        self._lock = threading.Lock()
        self.version = -1
        """What the keys remembered are of."""

    def table(self, rows: Rows) -> KeyTable:
        """Raises `Overloaded` where the rows do not go on from what is remembered."""
        with self._lock:
            return self._table(rows)

    def _table(self, rows: Rows) -> KeyTable:
        if rows.since < 0:
            self._keys, self._ids = {}, {}
        elif rows.since != self.version:
            raise Overloaded("An earlier load of the keys ended late; the next one brings them.")
        for row in rows.keys:
            self._take(row)
        self.version = rows.version
        self._places = self._placed(rows)
        valid: dict[str, Principal] = {}
        ended: dict[str, str] = {}
        for key in self._keys.values():
            place = self._places[key.where]
            if place.ended is not None:
                ended[key.hash] = place.ended
                continue
            if key.place is not place or key.principal is None:
                key.place, key.principal = place, _principal(key.own, place)
            valid[key.hash] = key.principal
        return KeyTable(rows.version, valid, ended)

    def _take(self, row: dict[str, Any]) -> None:
        """A key that was made or changed replaces what is known under its id, and under its hash."""
        old = self._keys.pop(row["id"], None)
        if old is not None:
            self._ids.pop(old.hash, None)
        if row["revoked_at"] is not None:
            return
        other = self._ids.get(row["hash"])
        if other is not None:
            self._keys.pop(other, None)
        self._ids[row["hash"]] = row["id"]
        where = (row["tenant"], row["user_id"])
        self._keys[row["id"]] = Kept(row["hash"], where, self._own(row))

    def _own(self, row: dict[str, Any]) -> Principal:
        models, limits, policy = row["models"], row["limits"], row["policy"]
        rules: tuple[Governed, ...] = ()
        if policy is not None and (read := policy_of(policy)) != _NO_POLICY:
            rules = (Governed("key", row["id"], read),)
        named: tuple[Scope, ...] = tuple(row["scopes"])
        return Principal(
            key_id=row["id"],
            tenant=row["tenant"],
            scopes=self._scopes.setdefault(named, frozenset(named)),
            name=row["name"],
            models=None if models is None else tuple(models),
            expires_at=row["expires_at"],
            limits=KeyLimits(**limits) if limits and any(limits.values()) else _NO_LIMITS,
            user_id=row["user_id"],
            policies=rules,
        )

    def _placed(self, rows: Rows) -> dict[Where, Place]:
        governed = self._ruled(rows)
        archived = {project.id for project in rows.projects if project.archived_at is not None}
        removed = {user.id for user in rows.users if user.removed_at is not None}
        strangers = set(rows.strangers)
        blocked = {stop.project: said(stop) for stop in rows.stops}
        places: dict[Where, Place] = {}
        for where in {key.where for key in self._keys.values()}:
            project, user = where
            code = None
            if project in archived:
                code = "project_archived"
            elif user in removed:
                code = "user_removed"
            elif user is not None and (project, user) in strangers:
                code = "not_a_member"
            above: list[tuple[Level, str]] = [("organization", rows.organization.id), ("project", project)]
            if user is not None:
                above.append(("user", user))
            rules = tuple(governed[owner] for owner in above if owner in governed)
            place, old = Place(code, blocked.get(project), rules), self._places.get(where)
            places[where] = old if old == place else place
        return places

    def _ruled(self, rows: Rows) -> dict[tuple[Level, str], Governed]:
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
        self._governed = governed
        return governed


def _principal(own: Principal, place: Place) -> Principal:
    return Principal(
        key_id=own.key_id,
        tenant=own.tenant,
        scopes=own.scopes,
        name=own.name,
        models=own.models,
        expires_at=own.expires_at,
        limits=own.limits,
        user_id=own.user_id,
        policies=(*place.policies, *own.policies) if own.policies else place.policies,
        blocked=place.blocked,
    )


def said(stop: Stop) -> str:
    """What callers are told."""
    until = datetime.fromtimestamp(stop.until, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (
        f"This project's calls are stopped until {until} UTC: {stop.reason} "
        "An administrator can let them go on earlier: headgate budgets release PROJECT."
    )
