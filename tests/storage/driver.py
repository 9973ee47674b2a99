"""How the conformance suite handles any driver of the counters."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from headgate.core.counters import Counters
from tests.clock import VirtualClock


class CountersDriver:
    """`replica` gives what one process of a fleet would use; all of a test share their state."""

    def __init__(self, replica: Callable[[], Counters], clock: VirtualClock | None) -> None:
        self._replica = replica
        self._clock = clock

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Counters]:
        counters = self._replica()
        try:
            yield counters
        finally:
            await counters.aclose()

    async def pass_time(self, seconds: float) -> None:
        """At least so many seconds go by: really, where the driver's clock is not ours."""
        if self._clock is not None:
            self._clock.jump(seconds)
        else:
            await asyncio.sleep(seconds)
