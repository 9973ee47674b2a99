"""Stops a tenant that burns money many times as fast as it usually does: a stolen key, a loop that calls itself."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.policy import NANOS, Velocity
from headgate.core.principal import KeyTable
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.telemetry import names
from headgate.telemetry.log import Log

CHECK_S = 5.0
KEEP_S = 2 * 86_400.0
"""Longer than any window: what was forgiven before that is out of it."""

Stop = Callable[[str, str, float], Awaitable[None]]
"""Stops a project, for a reason, until a Unix second."""


class Spent(Protocol):
    async def spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        """Nanodollars and tokens per question."""
        ...


def tripped(recent_nanos: int, usual_nanos_per_s: float, velocity: Velocity) -> bool:
    """Whether what was spent in the window is at least `floor_usd` and more than `times` what is usual for it.

    Who has never spent anything spends more than usual at the first dollar: the floor is the guard there.
    """
    if recent_nanos <= 0 or recent_nanos < velocity.floor_usd * NANOS:
        return False
    return recent_nanos > velocity.times * usual_nanos_per_s * velocity.window_s


class Watched:
    """Reads from the table of keys who is watched and who is stopped; anew only when there is another table.

    A tenant's own velocity counts before the organization's. Who has no key spends nothing.
    """

    def __init__(self, table: Callable[[], KeyTable]) -> None:
        self._table = table
        self._read: KeyTable | None = None
        self._policies: dict[str, Velocity] = {}
        self._stopped: frozenset[str] = frozenset()

    def policies(self) -> dict[str, Velocity]:
        self._refresh()
        return self._policies

    def stopped(self) -> frozenset[str]:
        self._refresh()
        return self._stopped

    def _refresh(self) -> None:
        table = self._table()
        if table is self._read:
            return
        one_each = {principal.tenant: principal for principal in table.by_hash.values()}
        policies = {}
        for tenant, principal in one_each.items():
            rules = {each.level: each.policy.velocity for each in principal.policies if each.policy.velocity}
            velocity = rules.get("project") or rules.get("organization")
            if velocity is not None:
                policies[tenant] = velocity
        self._policies = policies
        self._stopped = frozenset(tenant for tenant, principal in one_each.items() if principal.blocked is not None)
        self._read = table


class Velocities:
    """One per process. `policies` says whose spending is watched, `stopped` who is stopped at present.

    What was spent until a stop ended is forgiven: only what comes after it can trip the tenant again. This process
    remembers that by having seen the stop, whoever made it.
    """

    def __init__(
        self,
        ledger: Spent,
        policies: Callable[[], Mapping[str, Velocity]],
        stopped: Callable[[], frozenset[str]],
        stop: Stop,
        clock: Clock,
        log: Log,
    ) -> None:
        self._ledger = ledger
        self._policies = policies
        self._stopped = stopped
        self._stop = stop
        self._clock = clock
        self._log = log
        self._forgiven: dict[str, float] = {}

    async def run(self) -> None:
        """Until cancelled. While SQL is away nobody is judged, and the log says so."""
        while True:
            await self._clock.sleep(CHECK_S)
            try:
                await self.check()
            except HeadgateError as error:
                self._log.event(names.VELOCITY_UNCHECKED, "warning", error=error.message)

    async def check(self) -> list[str]:
        """Judges every tenant that has a policy and is not stopped; gives those it stopped. Raises what SQL raises."""
        now, stopped = self._clock.now(), self._stopped()
        policies = self._policies()
        for tenant in stopped:
            self._forgiven[tenant] = now
        self._forgiven = {
            tenant: min(at, now) for tenant, at in self._forgiven.items() if tenant in policies and at > now - KEEP_S
        }
        watched = [(tenant, velocity) for tenant, velocity in policies.items() if tenant not in stopped]
        recent = await self._ledger.spent([self._window(tenant, velocity, now) for tenant, velocity in watched])
        hot = [
            (tenant, velocity, nanos)
            for (tenant, velocity), (nanos, _) in zip(watched, recent, strict=True)
            if tripped(nanos, 0.0, velocity)
        ]
        usual = await self._ledger.spent([_usual(tenant, velocity, now) for tenant, velocity, _ in hot]) if hot else []
        found = []
        for (tenant, velocity, nanos), (before, _) in zip(hot, usual, strict=True):
            if tripped(nanos, before / velocity.usual_s, velocity) and await self._trip(
                tenant, velocity, (nanos, before), now
            ):
                found.append(tenant)
        return found

    def _window(self, tenant: str, velocity: Velocity, now: float) -> SpendQuestion:
        start = max(now - velocity.window_s, self._forgiven.get(tenant, 0.0))
        return SpendQuestion(start, max(now, start), tenant=tenant)

    async def _trip(self, tenant: str, velocity: Velocity, nanos: tuple[int, int], now: float) -> bool:
        recent, before = nanos
        rate = before / velocity.usual_s * velocity.window_s / NANOS
        reason = (
            f"It spent ${recent / NANOS:.2f} in {velocity.window_s} s; usual are ${rate:.2f} "
            f"(the limit is {velocity.times:g} times that)."
        )
        until = now + velocity.stop_s
        try:
            await self._stop(tenant, reason, until)
        except HeadgateError as error:  # tried again at the next check; the others are judged all the same
            self._log.event(names.VELOCITY_UNCHECKED, "error", tenant=tenant, error=error.message)
            return False
        self._forgiven[tenant] = now
        self._log.event(names.VELOCITY_TRIPPED, "error", tenant=tenant, reason=reason, until=until)
        return True


def _usual(tenant: str, velocity: Velocity, now: float) -> SpendQuestion:
    before = now - velocity.window_s
    return SpendQuestion(max(0.0, before - velocity.usual_s), before, tenant=tenant)
