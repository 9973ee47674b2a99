"""The phases of a start: each timed, and told of as it goes."""

from collections.abc import Callable

from headgate.core.clock import Clock
from headgate.engine import wire

TOLD_EVERY_S = 0.25
"""Between two messages about the bytes read."""

Tell = Callable[[wire.Loading], None]


class Phases:
    """Times the phases of a start, one after the other, and tells of them."""

    def __init__(self, clock: Clock, seconds: dict[str, float], tell: Tell | None) -> None:
        self.seconds = seconds
        self._clock = clock
        self._tell = tell
        self._name = ""
        self._since = self._told = clock.monotonic()

    def begin(self, name: str) -> None:
        """Ends the phase before."""
        self.end()
        self._name = name
        if self._tell is not None:
            self._tell(wire.Loading(name))

    def end(self) -> None:
        now = self._clock.monotonic()
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + now - self._since
        self._name, self._since = "", now

    def read(self, done: int, total: int) -> None:
        """So many bytes of weights are read."""
        now = self._clock.monotonic()
        if self._tell is not None and (done == total or now - self._told >= TOLD_EVERY_S):
            self._told = now
            self._tell(wire.Loading(self._name, done, total))
