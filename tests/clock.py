"""A clock that stands still until a test moves it."""

import asyncio

SETTLE_TURNS = 50
"""Turns of the event loop given to woken tasks before the clock moves on."""


class VirtualClock:
    """A `core.clock.Clock` under the test's hand: time passes in `advance` and `jump` only.

    `now` starts at `start` (Unix seconds) and `monotonic` at 0; both move together.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = 0

    def now(self) -> float:
        return self._start + self._elapsed

    def monotonic(self) -> float:
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Waits until the clock has been moved by `seconds`; zero or less only gives way to other tasks."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waker = asyncio.get_running_loop().create_future()
        self._order += 1
        entry = (self._elapsed + seconds, self._order, waker)
        self._sleepers.append(entry)
        try:
            await waker
        finally:
            if entry in self._sleepers:
                self._sleepers.remove(entry)

    @property
    def sleeping(self) -> int:
        """How many tasks wait for this clock."""
        return len(self._sleepers)

    def jump(self, seconds: float) -> None:
        """Moves time at once, without letting any task run in between; all sleepers now due wake together."""
        self._elapsed += seconds
        for due, _, waker in sorted(self._sleepers, key=lambda entry: entry[:2]):
            if due <= self._elapsed and not waker.done():
                waker.set_result(None)
        self._sleepers = [entry for entry in self._sleepers if entry[0] > self._elapsed]

    async def advance(self, seconds: float) -> None:
        """Moves time step by step: each sleeper wakes at its own moment and may sleep again within the span."""
        end = self._elapsed + seconds
        await self.settle()
        while (due := min((entry[0] for entry in self._sleepers), default=end)) < end:
            self.jump(due - self._elapsed)
            await self.settle()
        self.jump(end - self._elapsed)
        await self.settle()

    async def settle(self) -> None:
        """Gives the other tasks turns until they wait for something."""
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)
