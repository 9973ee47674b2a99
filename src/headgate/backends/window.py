"""Counts over the last seconds, in a fixed number of slots: what a breaker and an ejection are judged by."""

SLOTS = 10


class Window:
    """Calls, failures and latencies of the last `seconds`, to a tenth of them. Recording takes constant time."""

    __slots__ = ("_calls", "_failures", "_latencies", "_slot", "_sums", "_width")

    def __init__(self, seconds: float) -> None:
        self._width = seconds / SLOTS
        self._slot = 0
        self.clear()

    def clear(self) -> None:
        self._calls = [0] * SLOTS
        self._failures = [0] * SLOTS
        self._latencies = [0] * SLOTS
        self._sums = [0.0] * SLOTS

    def ended(self, now: float, *, failed: bool) -> None:
        place = self._at(now)
        self._calls[place] += 1
        self._failures[place] += failed

    def took(self, now: float, seconds: float) -> None:
        place = self._at(now)
        self._latencies[place] += 1
        self._sums[place] += seconds

    def counts(self, now: float) -> tuple[int, int]:
        """Calls, and how many of them failed."""
        self._at(now)
        return sum(self._calls), sum(self._failures)

    def latency(self, now: float) -> tuple[int, float]:
        """How many were timed, and their mean in seconds."""
        self._at(now)
        timed = sum(self._latencies)
        return timed, sum(self._sums) / timed if timed else 0.0

    def _at(self, now: float) -> int:
        """The place of the present slot, after emptying those whose time is over."""
        slot = int(now / self._width)
        if slot <= self._slot:
            return self._slot % SLOTS
        for gone in range(max(self._slot + 1, slot - SLOTS + 1), slot + 1):
            place = gone % SLOTS
            self._calls[place] = self._failures[place] = self._latencies[place] = 0
            self._sums[place] = 0.0
        self._slot = slot
        return slot % SLOTS
