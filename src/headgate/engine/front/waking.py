"""The calls that wait for an engine to wake."""

import asyncio

from headgate.core.errors import HeadgateError, Overloaded

MAX_WAITERS = 1000
"""Calls that may wait for one engine; more are refused."""


class Waking:
    """They wait together for one start, and hear together how it went. Each may leave when its own time is up."""

    def __init__(self) -> None:
        self.under_way = False
        self.waiting = 0
        self._error: HeadgateError | None = None
        self._over = asyncio.Event()

    def begin(self) -> None:
        self.under_way, self._error = True, None
        self._over.clear()

    def end(self, error: HeadgateError | None) -> None:
        """Nothing happens where nothing is under way."""
        if self.under_way:
            self.under_way, self._error = False, error
            self._over.set()

    async def wait(self) -> None:
        """Returns when it is over; raises what it failed with, or `Overloaded` where too many wait."""
        if self.waiting >= MAX_WAITERS:
            raise Overloaded(f"{self.waiting} calls wait for the engine to wake.", retry_after=1.0)
        self.waiting += 1
        try:
            await self._over.wait()
        finally:
            self.waiting -= 1
        if self._error is not None:
            raise self._error
