"""One replica: what is known of it, and the passes under which it is asked. `backends/replicas.py` decides with it."""

from collections.abc import Mapping
from typing import Literal, Protocol

from headgate.backends.breaker import Breaker, BreakerSettings
from headgate.backends.outliers import Conduct, OutlierSettings
from headgate.backends.pulse import Pulse, Sense, WatchSettings
from headgate.core.errors import HeadgateError
from headgate.core.faults import blame, classify

State = Literal["closed", "half_open", "open", "ejected", "paused", "failing"]
NUMBERS: Mapping[State, int] = {"closed": 0, "half_open": 1, "open": 2, "ejected": 3, "paused": 4, "failing": 5}
"""As the gauge shows them."""
Verdict = Literal["fine", "failed", "refused", "overloaded", "nothing"]
_OUR_POOL = frozenset({"upstream_pool_full", "upstream_pool_wait"})
"""Our own connections have run out; the replica has not said a word."""


def verdict(error: HeadgateError | None) -> Verdict:
    """What the end of an attempt tells of its replica. What is ours or the caller's tells nothing."""
    if error is None:
        return "fine"
    if blame(error) != "theirs" or error.code in _OUR_POOL:
        return "nothing"
    match classify(error):
        case "auth":
            return "refused"
        case "overload":
            return "overloaded"
        case "timeout" | "upstream":
            return "failed"
    return "nothing"


class Replica:
    """All that is known of one. Owned by `Replicas`."""

    def __init__(self, name: str, breaker: BreakerSettings, outliers: OutlierSettings, watch: WatchSettings) -> None:
        self.name = name
        self.breaker = Breaker(breaker)
        self.conduct = Conduct(outliers)
        self.pulse = Pulse()
        self.sense = Sense(watch)
        self.fellows: dict[str, Conduct] = {}
        """Its pool, itself included; all of a pool share one."""
        self.failing: str | None = None
        """What its probes found, where they found it failing."""
        self.paused_at = 0.0
        self.paused_until = 0.0
        self.pauses = 0
        """Pauses in a row whose length the upstream did not say."""
        self.back_at: float | None = None
        """When it came back, until it has its full share again."""
        self.judge_at = 0.0
        self.suspect_at = 0.0
        self.told: State = "closed"

    def state(self, now: float) -> State:
        if self.failing is not None:
            return "failing"
        if self.conduct.out:
            return "ejected"
        if self.breaker.state == "open":
            return "open"
        if now < self.paused_until:
            return "paused"
        return "closed" if self.breaker.state == "closed" else "half_open"

    def due(self) -> float:
        """When it may be asked again, by what is known now."""
        until = max(self.paused_until, self.conduct.until if self.conduct.out else 0.0)
        return max(until, self.breaker.until) if self.breaker.state == "open" else until

    def pause(self, now: float, since: float, seconds: float | None, settings: BreakerSettings) -> None:
        """It said it has no capacity, to a call that began at `since`; `seconds` is how long it asks to be left."""
        if seconds is None:
            if not self.pauses or since > self.paused_at:
                self.pauses += 1  # a call that began before the pause says nothing about its end
            seconds = settings.pause_s * 2.0 ** min(self.pauses - 1, 30)
        self.paused_at = now
        self.paused_until = max(self.paused_until, now + min(seconds, settings.pause_max_s))


class Listener(Protocol):
    """Who is told how a pass went."""

    def began(self, one: "Pass", latency_s: float | None) -> None: ...

    def ended(self, one: "Pass", error: HeadgateError | None) -> None: ...

    def dropped(self, one: "Pass") -> None: ...


class Pass:
    """Leave for one attempt at a replica. Its owner says once how it went: `ended` or `dropped`; later words are void.

    For every piece of the answer after the first the owner adds one to `pulse.beats`.
    """

    __slots__ = ("_begun", "_done", "_era", "_listener", "_waits", "anyway", "probe", "pulse", "replica", "since")

    def __init__(
        self, listener: Listener, replica: Replica, since: float, *, anyway: bool = False, streams: bool = True
    ) -> None:
        self._listener = listener
        self._era = replica.breaker.era
        self._begun = False
        self._done = False
        self.replica = replica
        self.since = since
        self.anyway = anyway
        """Made although the replica was not usable: a failure tells nothing new."""
        self.probe = not anyway and replica.breaker.state == "probing"
        """Whether it is the one that a half-open breaker lets through."""
        self.pulse = replica.pulse
        self._waits = int(streams)
        """A whole answer has no first piece: that it is not there yet says nothing."""
        self.pulse.in_flight += 1
        self.pulse.waiting += self._waits

    def heard(self) -> None:
        """A sign of life that is no token: the head of the response."""
        self.pulse.heads += 1

    def began(self, latency_s: float | None = None) -> None:
        """The first piece is there, so many seconds after the attempt began."""
        if self._done or self._begun:
            return
        self._begun = True
        self.pulse.waiting -= self._waits
        self.pulse.beats += 1
        if self._waits and latency_s is not None:
            self.pulse.began_after(latency_s)
        self._listener.began(self, latency_s)

    def ended(self, error: HeadgateError | None, latency_s: float | None = None) -> None:
        """The attempt is over: None where the answer was complete. `latency_s` where `began` was not called."""
        if error is None:
            self.began(latency_s)
        elif not self._begun and not self._done and classify(error) != "timeout":
            self.pulse.beats += 1  # an answer, if not the one that was hoped for
        if self._leave():
            self._listener.ended(self, error)

    def dropped(self) -> None:
        """The caller left, or another attempt was faster: nothing is known of the replica."""
        if self._leave():
            self._listener.dropped(self)

    def current(self) -> bool:
        """Whether the breaker has neither opened nor closed since."""
        return self._era == self.replica.breaker.era

    def renew(self) -> None:
        """Its own first piece has closed the breaker: how it ends shall count."""
        self._era = self.replica.breaker.era

    def _leave(self) -> bool:
        if self._done:
            return False
        self._done = True
        self.pulse.in_flight -= 1
        if not self._begun:
            self.pulse.waiting -= self._waits
        return True
