"""Which replicas may be asked now: breakers, ejections, pauses they asked for and probes, joined per `Target.at`.

Everything but `watch` is synchronous and takes constant time per call; `usable` is what every routing decision asks.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping

from headgate.backends.breaker import BreakerSettings
from headgate.backends.outliers import Conduct, OutlierSettings, far_off, room
from headgate.backends.pulse import Pulse, WatchSettings
from headgate.backends.replica import NUMBERS, Pass, Replica, State, verdict
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.ports import Health
from headgate.core.tasks import Tasks

JUDGE_S = 1.0
"""A replica is compared with the others of its pool at most so often."""
FIRST_SHARE = 0.1
"""With so much of its usual share a replica begins that comes back."""
STUCK = "answers health, makes no token"
_RANKS: Mapping[State, int] = {"closed": 0, "half_open": 1, "paused": 1, "ejected": 1, "open": 1, "failing": 2}


class Replicas:
    """The registry. `changed` hears (at, state, why) of every change that a routing decision would notice."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        changed: Callable[[str, str, str], None] | None = None,
        *,
        breaker: BreakerSettings | None = None,
        outliers: OutlierSettings | None = None,
        watch: WatchSettings | None = None,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._changed = changed
        self._breaker = breaker or BreakerSettings()
        self._outliers = outliers or OutlierSettings()
        self._watch = watch or WatchSettings()
        self._replicas: dict[str, Replica] = {}
        self._marked: set[str] = set()
        """All that are not plainly closed: the others are usable without a look at the clock."""

    def use(self, pools: Mapping[str, str]) -> None:
        """These exist now, each with the name of its pool; the others are forgotten, the known ones kept."""
        known = self._replicas
        self._replicas = {name: known.get(name) or self._new(name) for name in pools}
        self._marked &= self._replicas.keys()
        members: dict[str, dict[str, Conduct]] = {}
        for name, pool in pools.items():
            members.setdefault(pool, {})[name] = self._replicas[name].conduct
            self._replicas[name].fellows = members[pool]

    def forget(self, names: Iterable[str]) -> None:
        """These begin anew: their settings have changed, such as a credential. Passes that are out tell nothing."""
        for name in names:
            known = self._replicas.get(name)
            if known is not None:
                fresh = self._replicas[name] = self._new(name)
                fresh.fellows, fresh.failing, fresh.told = known.fellows, known.failing, known.told
                fresh.fellows[name] = fresh.conduct
                self._renew(fresh)

    def usable(self, at: str) -> bool:
        """Whether a call may be sent there now; of one that has just come back, only for a growing part of the asks
        while another of its pool can take the rest. What is not known is usable.
        """
        return at not in self._marked or self.why_not(at) is None

    def why_not(self, at: str) -> str | None:
        """Why it is not usable, in short words for the log; None where it is. As random as `usable`."""
        if at not in self._marked:
            return None
        replica, now = self._replicas[at], self._clock.monotonic()
        state = self._look(replica, now)
        if state == "half_open":
            good = replica.breaker.state == "half_open"
        else:
            good = state == "closed" and (self._rng.random() < self._share(replica, now) or not self._others(replica))
        return None if good else _words(replica, state, now)

    def enter(self, at: str, *, anyway: bool = False, streams: bool = True) -> Pass | None:
        """Right before an attempt; None: not now. A half-open one gives out one pass at a time.

        `anyway` gives one out whatever is known, for when no replica is usable; if such a call ends well, the breaker
        closes. `streams`: its answer comes piece by piece, so that a silence before the first one says something.
        """
        replica = self._replicas.get(at) or self._new(at)
        now = self._clock.monotonic()
        state = self._look(replica, now) if at in self._marked else "closed"
        if state == "half_open" and replica.breaker.state == "half_open":
            replica.breaker.taken()
        elif state != "closed":
            return Pass(self, replica, now, anyway=True, streams=streams) if anyway else None
        return Pass(self, replica, now, streams=streams)

    def least_bad(self, names: Collection[str]) -> str:
        """Of several that are not usable, the one that may be asked again soonest; `names` is not empty."""
        now = self._clock.monotonic()
        return min(names, key=lambda name: self._badness(name, now))

    def again_in(self, at: str) -> float:
        """Seconds until it may be asked again, by what is known now: for a `retry-after`."""
        replica = self._replicas.get(at)
        return 0.0 if replica is None else max(0.0, replica.due() - self._clock.monotonic())

    def failing(self, at: str, why: str | None) -> None:
        """What its probes found: why it is failing, or None where it is not."""
        replica = self._replicas.get(at)
        if replica is not None:
            replica.failing = why
            self._renew(replica)

    def pulse(self, at: str) -> Pulse:
        """Its counters; fresh ones where it is not known (any more)."""
        replica = self._replicas.get(at)
        return replica.pulse if replica is not None else Pulse()

    def states(self) -> dict[str, int]:
        """For the gauge: see `replica.NUMBERS`."""
        now = self._clock.monotonic()
        return {name: NUMBERS[self._look(replica, now)] for name, replica in self._replicas.items()}

    # What passes tell

    def began(self, one: Pass, latency_s: float | None) -> None:
        replica, now = one.replica, self._clock.monotonic()
        if latency_s is not None and not replica.conduct.out:
            replica.conduct.window.took(now, latency_s)
            if latency_s > self._outliers.slow_s:
                self._compare(replica, now)
        if one.probe and one.current():
            replica.breaker.began()
            one.renew()
        if replica.name in self._marked or replica.conduct.out:
            self._renew(replica, now)

    def ended(self, one: Pass, error: HeadgateError | None) -> None:
        replica, now = one.replica, self._clock.monotonic()
        kind = verdict(error)
        if kind in {"fine", "failed"} and not replica.conduct.out:
            replica.conduct.window.ended(now, failed=kind == "failed")
        if kind == "overloaded" and error is not None:
            replica.pause(now, one.since, error.retry_after, self._breaker)
        elif kind == "fine" and one.since > replica.paused_at:
            replica.pauses = 0
        if one.current() and (kind == "fine" or not one.anyway):
            self._tell(one, kind, now, error)
        if kind == "failed":
            self._compare(replica, now)
        if kind != "fine" or replica.name in self._marked:
            self._renew(replica, now)

    def dropped(self, one: Pass) -> None:
        if one.probe and one.current():
            one.replica.breaker.dropped()
            self._renew(one.replica)

    def _tell(self, one: Pass, kind: str, now: float, error: HeadgateError | None) -> None:
        breaker, why = one.replica.breaker, (error.code if error is not None else None) or "failed"
        if kind == "fine":
            breaker.fine(now)
        elif kind == "failed":
            breaker.failed(now, self._rng, why)
        elif kind == "refused":
            breaker.refused(now, self._rng, why)
        elif one.probe:
            breaker.dropped()

    # What time and the others tell

    async def watch(
        self, suspect: Callable[[str], None], generate: Callable[[str], Awaitable[Health]] | None = None
    ) -> None:
        """Until cancelled: samples the pulses. `suspect` is called for one that has gone silent, for a probe at once.

        One that makes no token while calls wait is taken out; where `generate` is given it is first asked for a token,
        which has `no_progress_s` seconds to come.
        """
        tasks = Tasks(limit=1_000)
        try:
            while True:
                await self._clock.sleep(self._watch.sample_s)
                for replica in list(self._replicas.values()):
                    self._sample(replica, suspect, generate, tasks)
        finally:
            await tasks.aclose()

    def _sample(
        self,
        replica: Replica,
        suspect: Callable[[str], None],
        generate: Callable[[str], Awaitable[Health]] | None,
        tasks: Tasks,
    ) -> None:
        now = self._clock.monotonic()
        if replica.name in self._marked:
            self._look(replica, now)
        finding = replica.sense.look(replica.pulse, now)
        if finding == "fine" or now < replica.suspect_at:
            return
        if finding == "silent":
            replica.suspect_at = now + self._watch.silent_s
            suspect(replica.name)
        elif replica.breaker.state == "closed":
            replica.suspect_at = now + self._watch.no_progress_s
            if generate is not None:
                tasks.spawn(self._ask(replica, generate), name=f"token from {replica.name}")
            else:
                self._stuck(replica)

    async def _ask(self, replica: Replica, generate: Callable[[str], Awaitable[Health]]) -> None:
        beats = replica.pulse.beats
        try:
            async with asyncio.timeout(self._watch.no_progress_s):
                found = (await generate(replica.name)).ok
        except (TimeoutError, HeadgateError):
            found = False
        if not found and replica.pulse.beats == beats:
            self._stuck(replica)

    def _stuck(self, replica: Replica) -> None:
        replica.breaker.stuck(self._clock.monotonic(), self._rng, STUCK)
        self._renew(replica)

    def _compare(self, replica: Replica, now: float) -> None:
        """Ejects it where it is an outlier, room is left, and another of its pool is there to take its calls."""
        if now < replica.judge_at or not room(replica.fellows, self._outliers):
            return
        replica.judge_at = now + JUDGE_S
        why = far_off(replica.name, replica.fellows, self._outliers, now)
        if why is not None and self._others(replica):
            replica.conduct.eject(now, self._outliers, why)

    def _others(self, replica: Replica) -> bool:
        """Whether another of its pool is there that may have all calls."""
        return any(name not in self._marked for name in replica.fellows if name != replica.name)

    def _look(self, replica: Replica, now: float) -> State:
        """Its state after what time alone has changed."""
        replica.breaker.look(now)
        replica.conduct.look(now)
        return self._renew(replica, now)

    def _renew(self, replica: Replica, now: float | None = None) -> State:
        """Marks it or not, and tells of a new state. Must follow every change."""
        now = self._clock.monotonic() if now is None else now
        state = replica.state(now)
        if self._replicas.get(replica.name) is not replica:
            return state  # it has been forgotten; passes that are still out end here
        if state != replica.told:
            before, replica.told = replica.told, state
            if state == "closed":
                replica.back_at = None if before == "paused" or len(replica.fellows) < 2 else now
            if self._changed is not None:
                self._changed(replica.name, state, _words(replica, state, now))
        if state == "closed" and self._share(replica, now) >= 1:
            replica.back_at = None
            self._marked.discard(replica.name)
        else:
            self._marked.add(replica.name)
        return state

    def _share(self, replica: Replica, now: float) -> float:
        """Slow start: the part of its usual calls that one that came back gets."""
        grow_s = self._outliers.return_s
        if replica.back_at is None or now - replica.back_at >= grow_s:
            return 1.0
        return max(FIRST_SHARE, (now - replica.back_at) / grow_s)

    def _badness(self, name: str, now: float) -> tuple[int, float, float]:
        replica = self._replicas.get(name)
        if replica is None:
            return 0, 0.0, self._rng.random()
        return _RANKS[self._look(replica, now)], replica.due(), self._rng.random()

    def _new(self, name: str) -> Replica:
        return Replica(name, self._breaker, self._outliers, self._watch)


def _words(replica: Replica, state: State, now: float) -> str:
    match state:
        case "failing":
            return f"failing: {replica.failing}"
        case "ejected":
            return f"ejected: {replica.conduct.why}"
        case "open":
            return replica.breaker.why
        case "half_open":
            return "breaker half-open, its probe is out" if replica.breaker.state == "probing" else "breaker half-open"
        case "paused":
            return f"overloaded: paused for {replica.paused_until - now:.1f} s"
    return "coming back" if replica.back_at is not None else "closed"
