"""The policies of the organization, its projects, users and keys: read, replaced, edited."""

import re
from collections.abc import Callable

import msgspec
from msgspec import Struct, structs

from headgate.core.errors import BadCall
from headgate.core.policy import Level, Policy, check_policy
from headgate.tenancy.desk import Change, Desk, missing
from headgate.tenancy.keyring import KeyRecord
from headgate.tenancy.records import ORGANIZATION, Actor, Organization, Project, User
from headgate.tenancy.store import Books

Edit = Callable[[Policy], Policy]
_USUAL_WEIGHT = Policy().weight
_PLACE = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)


class Owner(Struct, frozen=True):
    """Whose policy. A key may be named together with the project it must belong to."""

    level: Level
    id: str = ORGANIZATION
    project: str | None = None

    @property
    def within(self) -> str | None:
        """The project that the audit log files it under."""
        return self.id if self.level == "project" else self.project


class Policies:
    """The service behind the policy endpoints and commands."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def get(self, owner: Owner) -> Policy:
        """An empty one where none was set. Raises `NotFound`."""
        record = await self._desk.store.look(lambda books: load(books, owner))
        return record.policy or Policy()

    async def put(self, owner: Owner, policy: Policy, by: Actor) -> Policy:
        """Replaces the whole policy. Raises `BadCall` naming the field, and `NotFound`."""
        return await self.edit(owner, "policy.updated", lambda _: policy, by)

    async def edit(self, owner: Owner, kind: str, edit: Edit, by: Actor) -> Policy:
        """What `edit` makes of the policy, filed under `kind`. Raises as `put` does, and what `edit` raises."""
        return await self._desk.change(by, lambda change: edit_policy(change, owner, kind, edit))


class Governable(Struct, frozen=True):
    """A record with a policy."""

    record: Organization | Project | User | KeyRecord

    @property
    def policy(self) -> Policy | None:
        return self.record.policy


def load(books: Books, owner: Owner) -> Governable:
    """Raises `NotFound`. Those that are archived, removed or revoked can be read, and no longer changed."""
    if owner.level == "organization":
        return Governable(books.get(Organization, owner.id) or Organization())
    if owner.level == "project":
        project = books.get(Project, owner.id)
        if project is None:
            raise missing("project", owner.id)
        return Governable(project)
    if owner.level == "user":
        user = books.get(User, owner.id)
        if user is None:
            raise missing("user", owner.id)
        return Governable(user)
    key = books.get(KeyRecord, owner.id)
    if key is None or (owner.project is not None and key.tenant != owner.project):
        raise missing("key", owner.id)
    return Governable(key)


def edit_policy(change: Change, owner: Owner, kind: str | None, edit: Edit) -> Policy:
    """Inside a transaction. Without a `kind` the log is the caller's to write."""
    record = load(change.books, owner).record
    if _ended(record):
        raise BadCall(
            f"The {owner.level} '{owner.id[:100]}' is no longer in use; its policy stays as it was.", code="ended"
        )
    before = record.policy or Policy()
    after = edit(before)
    check(after, owner.level)
    if after == before:
        return after
    kept = None if after == Policy() else after
    new = structs.replace(record, policy=kept)
    if isinstance(new, KeyRecord):
        change.books.change_key(new)
    else:
        change.books.put(new)
    if kind is not None:
        change.note(kind, owner.id, owner.within, before, after)
    return after


def _ended(record: Organization | Project | User | KeyRecord) -> bool:
    if isinstance(record, Project):
        return record.archived_at is not None
    if isinstance(record, User):
        return record.removed_at is not None
    return isinstance(record, KeyRecord) and record.revoked_at is not None


def check(policy: Policy, level: Level, prefix: str = "") -> None:
    """Raises `BadCall` naming the field. Also for policies made in code, which no decoder has seen."""
    try:
        msgspec.convert(msgspec.to_builtins(policy), Policy)
    except msgspec.ValidationError as error:
        place = _PLACE.match(str(error))
        what, path = (place["what"], place["path"]) if place else (str(error), "")
        what = what.replace("`", "'").replace("Expected", "expected")
        raise BadCall(
            f"Invalid value for '{prefix}{path}': {what}.", param=prefix + path, code="invalid_value"
        ) from None
    try:
        check_policy(policy)
        _check_level(policy, level)
    except ValueError as error:
        field = str(error).partition(":")[0]
        raise BadCall(f"Invalid policy: {prefix}{error}.", param=prefix + field, code="invalid_value") from None
    for field, text in _texts(policy):
        if not text.isprintable():
            raise BadCall(
                f"'{prefix}{field}' holds characters that cannot be shown; leave them out.",
                param=prefix + field,
                code="invalid_value",
            )


def _check_level(policy: Policy, level: Level) -> None:
    """What would have no effect there is refused rather than kept. Raises `ValueError`."""
    if policy.velocity is not None and level not in {"organization", "project"}:
        raise ValueError(f"velocity: a {level}'s spending is not watched; set it on the project or the organization")
    if policy.weight != _USUAL_WEIGHT and level != "project":
        raise ValueError(f"weight: calls wait by project, so a {level} has none; set it on the project")


def _texts(policy: Policy) -> list[tuple[str, str]]:
    texts = [(f"models[{place}]", text) for place, text in enumerate(policy.models or ())]
    texts += [(f"denied_models[{place}]", text) for place, text in enumerate(policy.denied_models)]
    texts += [(f"limits[{place}].model", limit.model) for place, limit in enumerate(policy.limits)]
    for place, budget in enumerate(policy.budgets):
        texts += [
            (f"budgets[{place}].model", budget.model),
            (f"budgets[{place}].downgrade_to", budget.downgrade_to or ""),
        ]
    return texts
