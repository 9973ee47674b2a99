"""Keeps asking every backend whether it is there; routing and `/readyz` read the last answer without waiting.

One that has gone silent under load is asked at once (`suspect`), and out with its first miss.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from msgspec import Meta, Struct

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.ports import Backend, Health
from headgate.core.tasks import Tasks

State = Literal["unknown", "ok", "failing"]


class HealthSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When to probe, and when to believe it."""

    interval_s: Annotated[float, Meta(gt=0)] = 10.0
    timeout_s: Annotated[float, Meta(gt=0)] = 5.0
    failures: Annotated[int, Meta(ge=1)] = 2
    """So many failed probes in a row make a backend `failing`; one good probe makes it `ok` again."""
    suspect_timeout_s: Annotated[float, Meta(gt=0)] = 0.5
    """How long one that has gone silent may take to answer; a miss makes it `failing` at once."""
    suspect_interval_s: Annotated[float, Meta(gt=0)] = 0.5
    """How soon it is asked again then, until it answers."""


class Condition(Struct, frozen=True):
    """What is known of one backend. `since` is the monotonic time of the last change of `state`."""

    state: State = "unknown"
    detail: str = "not probed yet"
    consecutive_failures: int = 0
    latency_ms: float | None = None
    since: float = 0.0


def judge(before: Condition, found: Health, failures: int, now: float) -> Condition:
    """The condition after one more probe."""
    missed = 0 if found.ok else before.consecutive_failures + 1
    state: State = "ok" if found.ok else "failing" if missed >= failures else before.state
    since = now if state != before.state else before.since
    return Condition(state, found.detail, missed, found.latency_ms, since)


class HealthMonitor:
    """Probes each backend in its own task, by its name. `changed` hears of each change of state."""

    def __init__(
        self,
        clock: Clock,
        settings: HealthSettings | None = None,
        changed: Callable[[str, Condition], None] | None = None,
    ) -> None:
        self._clock = clock
        self._settings = settings or HealthSettings()
        self._changed = changed
        self._tasks = Tasks()
        self._backends: dict[str, Backend] = {}
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._suspected: dict[str, asyncio.Task[None]] = {}
        self._conditions: dict[str, Condition] = {}

    def watch(self, backends: Iterable[Backend]) -> None:
        """Probes exactly these from now on: new ones are started, missing ones stopped and forgotten."""
        wanted = {backend.name: backend for backend in backends}
        for name in list(self._watched):
            self._watched.pop(name).cancel()
            self._acquit(name)
            if name not in wanted:
                del self._conditions[name]
        self._backends = wanted
        for name, backend in wanted.items():
            self._conditions.setdefault(name, Condition(since=self._clock.monotonic()))
            self._watched[name] = self._tasks.spawn(self._keep_probing(backend), name=f"health {name}")

    def condition(self, name: str) -> Condition:
        return self._conditions.get(name, Condition())

    @property
    def conditions(self) -> dict[str, Condition]:
        return dict(self._conditions)

    def usable(self, name: str) -> bool:
        """Not known to be failing. An unknown backend is worth a try."""
        return self.condition(name).state != "failing"

    def suspect(self, name: str) -> None:
        """It has calls and sends nothing: it is asked at once, and again and again until it answers."""
        backend = self._backends.get(name)
        if backend is not None and name not in self._suspected:
            self._suspected[name] = self._tasks.spawn(self._question(backend), name=f"suspected {name}")

    async def probe(self, backend: Backend) -> Condition:
        """Probes once, now."""
        return await self._probe(backend, self._settings.timeout_s, self._settings.failures)

    async def _probe(self, backend: Backend, seconds: float, failures: int) -> Condition:
        try:
            async with asyncio.timeout(seconds):
                found = await backend.probe()
        except TimeoutError:
            found = Health(ok=False, detail=f"no answer within {seconds:g} s")
        except HeadgateError as error:
            found = Health(ok=False, detail=error.message)
        before = self.condition(backend.name)
        after = judge(before, found, failures, self._clock.monotonic())
        self._conditions[backend.name] = after
        if after.state != before.state and self._changed is not None:
            self._changed(backend.name, after)
        return after

    async def _keep_probing(self, backend: Backend) -> None:
        while True:
            await self.probe(backend)
            await self._clock.sleep(self._settings.interval_s)

    async def _question(self, backend: Backend) -> None:
        settings = self._settings
        while (await self._probe(backend, settings.suspect_timeout_s, 1)).state != "ok":
            await self._clock.sleep(settings.suspect_interval_s)
        self._suspected.pop(backend.name, None)

    def _acquit(self, name: str) -> None:
        asked = self._suspected.pop(name, None)
        if asked is not None:
            asked.cancel()

    async def aclose(self) -> None:
        self._watched.clear()
        self._suspected.clear()
        await self._tasks.aclose()
