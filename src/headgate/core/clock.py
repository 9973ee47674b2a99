"""Time is handed in. Production uses `SystemClock`; the simulation and tests bring their own."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Where time comes from. `now` is Unix seconds, `monotonic` never goes back; both are seconds."""

    def now(self) -> float: ...

    def monotonic(self) -> float: ...

    async def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
