"""When a store that does not answer is left alone: a breaker with one trial at a time, which costs nothing while open
(Nygard, Release It!, "Circuit Breaker"). No waiting; times are monotonic seconds, and handed in.
"""

FAILURES = 3
"""So many in a row open it."""
REST_S, REST_S_MAX = 0.5, 5.0


class Rest:
    """Closed until the store fails again and again; then one call at a time tries it, ever more rarely."""

    def __init__(self, longest_s: float = REST_S_MAX) -> None:
        self._longest_s = longest_s
        self._row = 0
        self._until = 0.0

    def admits(self, now: float) -> bool:
        """Whether to ask the store. The one that is let in while it is open holds the others back."""
        if self._row < FAILURES:
            return True
        if now < self._until:
            return False
        self._until = now + self._pause
        return True

    def failed(self, now: float) -> None:
        self._row += 1
        self._until = now + self._pause

    def answered(self) -> None:
        self._row = 0

    @property
    def _pause(self) -> float:
        return min(REST_S * 2.0 ** min(self._row - FAILURES, 10), self._longest_s)
