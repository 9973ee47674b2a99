"""What this process has in force of the kill switches, kept fresh, and told to the others."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.switches import KINDS, Switch, Switches
from headgate.release.store import Store
from headgate.release.switches import FORGET_SECONDS, HEARTBEAT_SECONDS
from headgate.telemetry import names
from headgate.telemetry.log import Log

POLL_SECONDS = 0.25
"""How often a replica looks whether another process changed something."""
ANSWER_SECONDS = 5.0
"""How long that look, and each write, may take before SQL counts as away: a start must not fail on a busy disk."""
LEAVE_SECONDS = 2.0
ROUND_SECONDS = 15.0
BEFORE_FIRST = -1


class Watch:
    """Holds `snapshot`, which the request path reads; replaced by one assignment. While SQL is away it stays.

    A version is acknowledged only once it is in force here. A process is in the list of replicas before it first
    asks for the switches, so a change made meanwhile is either in what it reads, or waits for it.
    """

    def __init__(self, store: Store, instance: str, host: str, clock: Clock, log: Log) -> None:
        self.store = store
        self._instance = instance
        self._host = host
        self._clock = clock
        self._log = log
        self._turn = asyncio.Lock()
        self._told: int | None = None
        """The version that was acknowledged last."""
        self._due = 0.0
        self._away = False
        self.snapshot = Switches(BEFORE_FIRST)

    async def start(self) -> None:
        """Returns with the switches in force. Raises `Overloaded` where SQL is away: better no replica than one that
        serves what is off.
        """
        await self._tell()
        await self.refresh()

    async def refresh(self) -> None:
        """Brings the newest version into force, drops what has ended, and says so to the others. Raises `Overloaded`.

        One at a time: a slow one could otherwise bring back last what it read first.
        """
        async with self._turn:
            version = await self.store.version(ANSWER_SECONDS)
            if version != self.snapshot.version:
                version, found = await self.store.switches(ANSWER_SECONDS)
                self._swap(version, found)
            else:
                self.expire()
            if self._told != self.snapshot.version or self._clock.monotonic() >= self._due:
                await self._tell()
            self._away = False

    async def follow(self) -> None:
        """After a change of our own, which is committed: should SQL be away now, `watch` brings it later."""
        try:
            await self.refresh()
        except HeadgateError as error:
            self._lost(str(error))

    async def watch(self, rng: random.Random) -> None:
        """Until cancelled: follows changes made by other processes, and the ends of switches."""
        while True:
            await self._clock.sleep(POLL_SECONDS * rng.uniform(0.8, 1.2))
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    await self.refresh()
            except (HeadgateError, TimeoutError) as error:
                self.expire()
                self._lost(str(error) or "no answer in time")

    async def leave(self) -> None:
        """At the end: changes need not wait for this process any more."""
        try:
            await self.store.leave(self._instance, FORGET_SECONDS, LEAVE_SECONDS)
        except HeadgateError as error:
            self._lost(str(error))

    def expire(self) -> None:
        """Drops what has ended. It was not obeyed before either: each look goes by the time."""
        now = self._clock.now()
        if any(not switch.on(now) for switch in self.snapshot.in_force):
            self._swap(self.snapshot.version, self.snapshot.in_force)

    def active(self) -> Mapping[str, float]:
        """Switches in force, by kind."""
        now = self._clock.now()
        counts = Counter(switch.kind for switch in self.snapshot.in_force if switch.on(now))
        return {kind: float(counts[kind]) for kind in KINDS}

    async def _tell(self) -> None:
        version = self.snapshot.version
        await self.store.acknowledge(self._instance, self._host, version, ANSWER_SECONDS)
        self._told, self._due = version, self._clock.monotonic() + HEARTBEAT_SECONDS

    def _swap(self, version: int, found: Sequence[Switch]) -> None:
        now = self._clock.now()
        before = {switch.id: switch for switch in self.snapshot.in_force}
        self.snapshot = Switches.of(version, [switch for switch in found if switch.on(now)])
        after = {switch.id: switch for switch in self.snapshot.in_force}
        for switch in after.values():
            if before.get(switch.id) != switch:
                self._say(names.SWITCH_ON, switch)
        for switch in before.values():
            if switch.id not in after:
                self._say(names.SWITCH_OFF if switch.on(now) else names.SWITCH_EXPIRED, switch)

    def _say(self, event: str, switch: Switch) -> None:
        self._log.event(
            event,
            "warning",
            id=switch.id,
            kind=switch.kind,
            target=switch.name,
            fallback_model=switch.fallback_model,
            expires_at=switch.expires_at,
            by=switch.created_by,
            reason=switch.reason,
            version=self.snapshot.version,
        )

    def _lost(self, error: str) -> None:
        """Once per time that SQL is away."""
        if not self._away:
            self._away = True
            self._log.event(names.SWITCHES_STALE, "warning", error=error)
