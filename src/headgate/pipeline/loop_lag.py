"""How far this process itself lags behind: what it adds to a latency is not the backend's."""

from headgate.core.clock import Clock

EVERY_S = 0.02
FADES = 0.9
"""What is left of a lag after each look: one that was is remembered for about half a second."""


class LoopLag:
    """`seconds` by which the event loop has lately been late for its timers. `run` is a task of the server's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            before = self._clock.monotonic()
            await self._clock.sleep(EVERY_S)
            late = self._clock.monotonic() - before - EVERY_S
            self.seconds = max(late, self.seconds * FADES, 0.0)
