"""Whether a store may be asked at all: a breaker that decides from how recent calls went. No waiting, no clock.

        5 failures in a row, or p99 above 0.9 s
    closed ------------------------------------> open
       ^                                           |
       +------ so many good trials in a row -------+

While it is open nobody but one trial at a time asks the store (Nygard, Release It!, "Circuit Breaker").
"""

from collections import deque
from typing import Annotated

from msgspec import Meta, Struct


class BreakerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When the store is in trouble, and when it is well again."""

    failures: Annotated[int, Meta(ge=1)] = 5
    """So many failures in a row open it."""
    slow_s: Annotated[float, Meta(gt=0)] = 0.9
    """What the 99th percentile of recent answers may take."""
    slow_calls: Annotated[int, Meta(ge=1)] = 3
    """Fewer slow answers than this prove nothing: the 99th percentile of twenty answers is the slowest one."""
    calls_min: Annotated[int, Meta(ge=1)] = 20
    """Nor do fewer answers."""
    window_s: Annotated[float, Meta(gt=0)] = 5.0
    """What counts as recent."""
    window_calls: Annotated[int, Meta(ge=10)] = 1_000
    """At most so many recent answers are looked at."""
    warm_s: Annotated[float, Meta(ge=0)] = 1.0
    """For so long after the first call, and after a recovery, slow answers prove nothing: connections are made."""
    trials_max: Annotated[int, Meta(ge=1)] = 16
    """Good trials in a row that a store which keeps coming and going needs at most; a steady one needs one."""
    steady_s: Annotated[float, Meta(ge=0)] = 30.0
    """A store in trouble again within this time of its recovery needs twice the trials."""


class Breaker:
    """Closed until the store is in trouble. Times are monotonic seconds, and handed in."""

    def __init__(self, settings: BreakerSettings | None = None) -> None:
        self._settings = settings or BreakerSettings()
        self._row = 0
        self._recent: deque[tuple[float, bool]] = deque()
        """When an answer came, and whether it was slow (or none)."""
        self._slow = 0
        self._good = 0
        self._trials = 1
        self._closed_at = float("-inf")
        self._warm_at: float | None = None
        self.open = False
        self.reason = ""
        """Why it opened last."""

    @property
    def suspicious(self) -> bool:
        """Closed, and the last call failed."""
        return not self.open and self._row > 0

    def answered(self, seconds: float, now: float) -> None:
        """An answer came after `seconds`."""
        if self.open:
            return
        self._row = 0
        self._remember(seconds > self._settings.slow_s, now)

    def failed(self, now: float) -> None:
        """None came, or an error."""
        if self.open:
            return
        self._row += 1
        if self._row >= self._settings.failures:
            self._trip(f"{self._row} calls in a row failed", now)
        else:
            self._remember(True, now)

    def tried(self, seconds: float | None, now: float) -> bool:
        """How the trial went (None: it failed); whether that closed the breaker."""
        good = seconds is not None and seconds <= self._settings.slow_s
        if not self.open:
            if seconds is None:
                self.failed(now)
            else:
                self.answered(seconds, now)
            return False
        self._good = self._good + 1 if good else 0
        if self._good < self._trials:
            return False
        self.open = False
        self._closed_at = now
        self._warm_at = now + self._settings.warm_s
        return True

    def _remember(self, slow: bool, now: float) -> None:
        recent, settings = self._recent, self._settings
        if self._warm_at is None:
            self._warm_at = now + settings.warm_s
        if now < self._warm_at:
            return
        recent.append((now, slow))
        self._slow += slow
        while len(recent) > settings.window_calls or recent[0][0] < now - settings.window_s:
            self._slow -= recent.popleft()[1]
        enough = len(recent) >= settings.calls_min and self._slow >= settings.slow_calls
        if slow and enough and self._slow * 100 > len(recent):
            self._trip(f"{self._slow} of {len(recent)} answers took longer than {settings.slow_s * 1000:g} ms", now)

    def _trip(self, reason: str, now: float) -> None:
        again = now - self._closed_at < self._settings.steady_s
        self._trials = min(2 * self._trials, self._settings.trials_max) if again else 1
        self.open = True
        self.reason = reason
        self._row = self._good = self._slow = 0
        self._recent.clear()
