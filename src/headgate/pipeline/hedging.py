"""When a second attempt is worth its money: after a quantile of the answers of late, and within a cap.

Dean and Barroso, "The Tail at Scale" (CACM 2013): hedges sent after the 95th percentile add 5 % load and cut the tail.
"""

from collections import deque

from headgate.core.rules import Hedge

SAMPLES = 256
"""Answers of late that are looked at."""
ENOUGH = 20
"""Fewer tell nothing of a quantile: until then there are no hedges."""
LOOK_EVERY = 16
"""Answers after which the quantile is found anew."""
SAVED_MAX = 10.0
"""Hedges that can be saved up."""


class Hedges:
    """Of one model, as callers name it. Every method is synchronous."""

    def __init__(self) -> None:
        self._latencies: deque[float] = deque(maxlen=SAMPLES)
        self._unseen = 0
        self._late_s: float | None = None
        self._quantile = 0.0
        self._left = 0.0
        self._spent = 0
        self._extra = 0

    def came(self, rule: Hedge) -> None:
        """A call has come: a part of a hedge is earned."""
        self._left = min(SAVED_MAX, self._left + rule.max_extra)

    def late_s(self, rule: Hedge) -> float | None:
        """Seconds after which an answer is late; None while too little is known."""
        if len(self._latencies) < ENOUGH:
            return None
        if self._late_s is None or self._unseen >= LOOK_EVERY or self._quantile != rule.quantile:
            ordered = sorted(self._latencies)
            self._late_s = ordered[min(len(ordered) - 1, int(rule.quantile * len(ordered)))]
            self._unseen = 0
            self._quantile = rule.quantile
        return max(rule.min_s, self._late_s)

    def began(self, latency_s: float) -> None:
        """The first piece of an answer came so many seconds after the first attempt."""
        self._latencies.append(latency_s)
        self._unseen += 1

    def take(self, rule: Hedge) -> bool:
        """Whether one may be made now: both caps allow it."""
        if self._left < 1.0 or self._extra > rule.max_extra * self._spent:
            return False
        self._left -= 1.0
        return True

    def paid(self, nanos: int, extra_nanos: int) -> None:
        """What a call cost in all, and what of it was for attempts that lost."""
        self._spent += nanos
        self._extra += extra_nanos
