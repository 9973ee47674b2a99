"""One stream as it comes, for everyone who sits in its flight, each at its own pace."""

import asyncio
import copy
from collections.abc import AsyncGenerator
from typing import NoReturn

from headgate.core.errors import Bug, HeadgateError, UpstreamTimeout
from headgate.core.events import Event
from headgate.pipeline.admission import Lease
from headgate.pipeline.kept_answers import weight
from headgate.pipeline.meter import Story

KEPT = 1024 * 1024
"""Bytes of an answer up to which its beginning is kept, for who comes late. Until then nobody waits for anybody."""
AHEAD = 256 * 1024
"""Bytes by which the stream of a longer answer may be ahead of the slowest who follows it."""
LEAST = 16 * 1024
"""The same where the process holds too much already."""


class Memory:
    """Bytes that all flights of a process hold together. Beyond `limit` none keeps its beginning, or runs ahead."""

    def __init__(self, limit: int = 64 * 1024 * 1024) -> None:
        self.limit = limit
        self.used = 0


class Seat:
    """One call's place in a flight: how far it has read, and whether its deadline has passed."""

    __slots__ = ("_waiter", "at", "error", "late", "lease", "story", "timer")

    def __init__(self, lease: Lease, story: Story) -> None:
        self.lease = lease
        self.story = story
        self.at = 0
        """The number of the next item."""
        self.late = False
        self.error: HeadgateError | None = None
        """Why this call ends, and the flight does not."""
        self.timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Until something has happened: look again."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Shared:
    """Items of one stream, added by one task, read by every seat from the first one.

    An answer that grows beyond `KEPT`, or would overfill the process's `memory`, is `large`: what all seats have read
    is let go, so that nobody can join any more, and whoever adds waits for the slowest.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._items: list[Event | bytes] = []
        self._first = 0
        """The number of the first item still held."""
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self.seats: dict[Seat, None] = {}
        """In the order in which they came."""
        self.large = False
        self.ended = False
        self.error: BaseException | None = None

    # Whoever adds

    def add(self, item: Event | bytes) -> None:
        self._items.append(item)
        size = weight(item)
        self._held += size
        self._memory.used += size
        if self._held > KEPT or self._memory.used > self._memory.limit:
            self.large = True
        if self.large:
            self._trim()
        self.tell()

    @property
    def full(self) -> bool:
        ahead = AHEAD if self._memory.used <= self._memory.limit else LEAST
        return self.large and self._held > ahead

    async def room(self) -> None:
        """Waits for the slowest seat."""
        while self.full:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def end(self, error: BaseException | None) -> None:
        """There will be no more."""
        self.ended, self.error = True, error
        if not self.seats:
            self._forget()
        self.tell()

    def tell(self) -> None:
        for seat in self.seats:
            seat.wake()

    # Whoever follows

    def sit(self, seat: Seat) -> None:
        self.seats[seat] = None

    def allow(self, seat: Seat, seconds: float | None) -> None:
        """The seat may wait so long from now; None: as long as it likes."""
        if seat.timer is not None:
            seat.timer.cancel()
            seat.timer = None
        if seconds is not None:
            seat.timer = asyncio.get_running_loop().call_later(seconds, self._ring, seat)

    def leave(self, seat: Seat) -> None:
        self.allow(seat, None)
        self.seats.pop(seat, None)
        if self.ended and not self.seats:
            self._forget()
        elif self.large:
            self._trim()

    async def read(self, seat: Seat) -> AsyncGenerator[Event | bytes]:
        """Everything from the beginning; its story learns how it ended. Raises `UpstreamTimeout` at the seat's own
        deadline, and the error in which the stream ended.
        """
        while True:
            while seat.at < self._first + len(self._items):
                if seat.late and (not self.ended or seat.at < self._first):
                    break
                item = self._items[seat.at - self._first]
                seat.at += 1
                if self.large:
                    self._trim()
                yield item
            else:
                if self.ended:
                    break
            if seat.late:
                self._fail(seat, too_late())
            await seat.wait()
        if self.error is not None:
            self._fail(seat, self.error)
        seat.story.complete()

    def _ring(self, seat: Seat) -> None:
        seat.late = True
        if self.large:
            self._trim()
        seat.wake()

    @staticmethod
    def _fail(seat: Seat, error: BaseException) -> NoReturn:
        """Raises it, as the seat's own."""
        if not isinstance(error, HeadgateError):
            seat.story.fail(Bug(f"The answer could not be read: {type(error).__name__}."))
            raise error
        seat.story.fail(error)
        raise own(error) from error

    def _trim(self) -> None:
        """Lets go of what everyone has read whose deadline has not passed."""
        end = self._first + len(self._items)
        passed = max(self._first, min((seat.at for seat in self.seats if not seat.late), default=end))
        gone = self._items[: passed - self._first]
        if gone:
            del self._items[: len(gone)]
            self._first = passed
            size = sum(map(weight, gone))
            self._held -= size
            self._memory.used -= size
        if self._waiter is not None and not self._waiter.done() and not self.full:
            self._waiter.set_result(None)

    def _forget(self) -> None:
        self._memory.used -= self._held
        self._held = 0
        self._items.clear()


def own(error: HeadgateError) -> HeadgateError:
    """A copy for one caller: its traceback and its headers are its own."""
    mine = copy.copy(error)
    mine.headers = list(error.headers)
    return mine


def too_late() -> UpstreamTimeout:
    return UpstreamTimeout(
        "The call's deadline passed before the answer was complete. Allow more time with x-headgate-timeout-s.",
        code="deadline_exceeded",
    )
