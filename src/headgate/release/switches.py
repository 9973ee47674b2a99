"""The verbs of kill switches: on, off, list. A change is in force on every replica when its verb returns, or the
answer says where it is not.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct, structs

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, Conflict, HeadgateError
from headgate.core.ids import Ids
from headgate.core.policy import TIME_MAX
from headgate.core.switches import KINDS, Kind, Switch, is_glob
from headgate.release.store import Replica, Shelf, Store
from headgate.tenancy.desk import missing
from headgate.tenancy.records import Actor, Project
from headgate.tenancy.store import sayable

NAME_MAX = 256
TEXT_MAX = 500
SWITCHES_MAX = 500
WAIT_SECONDS = 5.0
"""How long a change waits for the replicas unless it is told otherwise."""
WAIT_SECONDS_MAX = 30.0
LOOK_AGAIN_SECONDS = 0.05
ANSWER_SECONDS = 2.0
HEARTBEAT_SECONDS = 10.0
"""How often a replica writes that it is there, where nothing changes."""
LIVE_SECONDS = 3 * HEARTBEAT_SECONDS
"""A replica that was silent for longer is dead, or cut off from SQL: it is not waited for, but named."""
FORGET_SECONDS = 600.0
"""And after this it is no more counted."""
PRUNE_SECONDS = 3_600.0
"""So long after its end a switch's row may go: by then it has ended by every replica's clock."""

State = Literal["in_force", "waiting", "silent"]


class Spec(Struct, frozen=True, kw_only=True):
    """What an administrator asks for; the fields are those of `Switch`."""

    kind: Kind
    name: str
    reason: str
    fallback_model: str | None = None
    message: str | None = None
    expires_at: float | None = None


class Standing(Struct, frozen=True):
    """A replica, and whether it has a version in force."""

    instance: str
    host: str
    state: State
    silent_s: float


class Force(Struct, frozen=True):
    """Where a change is in force."""

    replicas: tuple[Standing, ...] = ()
    known: bool = True
    """False where SQL could not be asked."""

    @property
    def everywhere(self) -> bool:
        return self.known and all(replica.state == "in_force" for replica in self.replicas)

    @property
    def waiting(self) -> bool:
        return not self.known or any(replica.state == "waiting" for replica in self.replicas)


class KillSwitches:
    """What the admin API and the command line are handed. `follow` brings a change into force in this process."""

    def __init__(self, store: Store, clock: Clock, ids: Ids, follow: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._follow = follow

    async def turn_on(self, spec: Spec, by: Actor, wait_s: float = WAIT_SECONDS) -> tuple[Switch, Force]:
        """One of the same kind and name is replaced and keeps its id. Waits `wait_s` seconds at most for the replicas.

        Raises `BadCall` naming the field, and `Conflict` where there are too many.
        """
        now = self._clock.now()
        check(spec, now)

        def work(shelf: Shelf) -> Switch:
            _check_tenant(spec, shelf)
            shelf.prune(now - PRUNE_SECONDS)
            before = shelf.named(spec.kind, spec.name)
            if before is not None and not before.on(now):
                before = None
            if before is None and len(shelf.all()) >= SWITCHES_MAX:
                raise Conflict(
                    f"There are {SWITCHES_MAX} switches already; turn some off, or use a pattern.",
                    code="too_many_switches",
                )
            switch = Switch(
                id=shelf.change.new_id("switch") if before is None else before.id,
                created_at=now,
                created_by=by.user or by.key,
                **structs.asdict(spec),
            )
            shelf.put(switch)
            verb = "created" if before is None else "updated"
            shelf.change.note(f"kill_switch.{verb}", switch.id, _project(switch), before, switch)
            return switch

        return await self._change(by, now, work, wait_s)

    async def turn_off(self, switch_id: str, by: Actor, wait_s: float = WAIT_SECONDS) -> tuple[Switch, Force]:
        """Waits as `turn_on` does. Raises `NotFound`, also for one that has ended."""
        now = self._clock.now()

        def work(shelf: Shelf) -> Switch:
            switch = shelf.get(switch_id)
            if switch is None or not switch.on(now):
                raise missing("kill switch", switch_id)
            shelf.remove(switch_id)
            shelf.change.note("kill_switch.deleted", switch.id, _project(switch), switch, None)
            return switch

        return await self._change(by, now, work, wait_s)

    async def all(self) -> list[Switch]:
        """Those in force, newest first."""
        now = self._clock.now()
        _, found = await self._store.switches()
        return [switch for switch in found if switch.on(now)]

    async def get(self, switch_id: str) -> Switch:
        """Raises `NotFound`."""
        for switch in await self.all():
            if switch.id == switch_id:
                return switch
        raise missing("kill switch", switch_id)

    async def force(self, wait_s: float = 0.0) -> Force:
        """Where the newest version is in force."""
        return await self._wait(await self._store.version(ANSWER_SECONDS), wait_s)

    async def _change(
        self, by: Actor, now: float, work: Callable[[Shelf], Switch], wait_s: float
    ) -> tuple[Switch, Force]:
        switch, version = await self._store.change(by, now, self._ids, work)
        await self._follow()
        return switch, await self._wait(version, wait_s)

    async def _wait(self, version: int, wait_s: float) -> Force:
        """The change is committed: whatever becomes of SQL meanwhile, the answer is where it is in force."""
        end = self._clock.monotonic() + min(wait_s, WAIT_SECONDS_MAX)
        while True:
            try:
                found = await self._store.replicas(FORGET_SECONDS, ANSWER_SECONDS)
                force = Force(tuple(_standing(replica, version) for replica in found))
            except HeadgateError:
                force = Force(known=False)
            if not force.waiting or self._clock.monotonic() >= end:
                return force
            await self._clock.sleep(LOOK_AGAIN_SECONDS)


def check(spec: Spec, now: float) -> None:
    """Raises `BadCall` naming the field."""
    if spec.kind not in KINDS:
        raise BadCall(f"'kind' is one of {', '.join(KINDS)}.", param="kind", code="invalid_value")
    _check_text("name", spec.name, NAME_MAX)
    _check_text("reason", spec.reason, TEXT_MAX)
    if spec.message is not None:
        _check_text("message", spec.message, TEXT_MAX)
    if spec.expires_at is not None and not now < spec.expires_at <= TIME_MAX:
        raise BadCall(
            "'expires_at' lies between now and the year 10000, in Unix seconds; leave it out for no end.",
            param="expires_at",
            code="invalid_value",
        )
    if spec.fallback_model is not None:
        _check_fallback(spec, spec.fallback_model, now)


def _check_fallback(spec: Spec, fallback: str, now: float) -> None:
    _check_text("fallback_model", fallback, NAME_MAX)
    if spec.kind == "backend":
        raise BadCall(
            "A backend that is off is left out of every route, and the routes' own fallbacks take over; "
            "leave 'fallback_model' out.",
            param="fallback_model",
            code="invalid_value",
        )
    named = structs.asdict(spec)
    if spec.kind == "model" and Switch(id="", created_at=now, created_by="", **named).covers(fallback):
        raise BadCall(
            f"The fallback '{fallback}' is itself turned off by '{spec.name}'; name a model that is not.",
            param="fallback_model",
            code="invalid_value",
        )


def _check_tenant(spec: Spec, shelf: Shelf) -> None:
    """A slip of the pen would turn nothing off, and say that it did."""
    if spec.kind == "tenant" and not is_glob(spec.name) and shelf.change.books.get(Project, spec.name) is None:
        raise BadCall(
            f"There is no project '{spec.name}'. A tenant is named by its project's id; list them to see it.",
            param="name",
            code="project_not_found",
        )


def _check_text(field: str, text: str, most: int) -> None:
    if not 0 < len(text) <= most or not text.isprintable() or text.isspace() or not sayable(text):
        raise BadCall(f"'{field}' has 1 to {most} characters, all printable.", param=field, code="invalid_value")


def _project(switch: Switch) -> str | None:
    """Whose line it is in the audit log."""
    return switch.name if switch.kind == "tenant" and not is_glob(switch.name) else None


def _standing(replica: Replica, version: int) -> Standing:
    state: State = "in_force"
    if replica.version < version:
        state = "waiting" if replica.silent_s <= LIVE_SECONDS else "silent"
    return Standing(replica.instance, replica.host, state, round(replica.silent_s, 1))
