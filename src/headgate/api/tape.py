"""The end of a stream in progress that somebody still needs: the caller who listens, or the store that keeps it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from headgate.api.errors import openai_frame
from headgate.api.recording import Memory
from headgate.core.errors import HeadgateError
from headgate.core.reply import Header
from headgate.core.streams import READ_FRAMES

AHEAD = 256 * 1024
"""Bytes by which an answer may be ahead of the caller who listens."""
STILL_S = 2.0
"""After so long a caller who takes nothing may be one who has gone without a word, and come back elsewhere."""
_BLANK = b"\n\n"


def frames_of(data: bytes) -> list[bytes]:
    """Each frame with the blank line that ends it."""
    if data.endswith(_BLANK) and data.find(_BLANK) == len(data) - 2:
        return [data]
    return [part + _BLANK for part in data.split(_BLANK) if part]


class Place:
    """How far one reader of a tape is."""

    __slots__ = ("at", "passed")

    def __init__(self) -> None:
        self.at = 0
        """The number of the last frame it has."""
        self.passed = 0
        """Bytes up to there."""


class Tape:
    """Numbers the frames of one answer, and holds each until both its readers have it. Written by one task.

    The writer waits for the caller, as long as there is one: `caller` becomes None where he stands still and
    `elsewhere` says that the stream is followed from the store. It never waits for the store: where that is more than
    `limit` bytes behind, or all tapes together fill the process's `memory`, `store` becomes None and the stream can
    no longer be resumed.
    """

    def __init__(self, stream: str, limit: int, memory: Memory, elsewhere: Callable[[], Awaitable[bool]]) -> None:
        self._name = f"id: {stream}:".encode()
        self._limit = limit
        self._memory = memory
        self._elsewhere = elsewhere
        self._frames: list[bytes] = []
        self._first = 1
        """The number of the first frame still held."""
        self._total = 0
        self._changed = asyncio.Event()
        self.caller: Place | None = Place()
        """None: left."""
        self.store: Place | None = Place()
        """None: given up, or told all of it."""
        self.headers: tuple[Header, ...] | None = None
        """The reply's; None until it has begun."""
        self.error: HeadgateError | None = None
        """What the answer ended in."""
        self.over = False

    # Whoever writes

    def begin(self, headers: Sequence[Header]) -> None:
        self.headers = tuple(headers)
        self._tell()

    async def write(self, data: bytes) -> None:
        """One or more whole frames."""
        self._take(data)
        self._tell()
        while self.caller is not None and self._total - self.caller.passed > AHEAD:
            try:
                async with asyncio.timeout(STILL_S):
                    await self._changed.wait()
            except TimeoutError:
                if await self._elsewhere():
                    self.caller_left()

    def nudge(self, _data: bytes) -> None:
        """Heartbeats belong to connections and are not numbered."""

    def end(self, last: bytes) -> None:
        self._take(last)
        self.over = True
        self._tell()

    def fail(self, error: HeadgateError) -> None:
        """The answer ends in this error, its last frame. What has ended already stays as it is."""
        if not self.over:
            self.error = error
            self.end(openai_frame(error))

    # Whoever reads

    async def begun(self) -> None:
        """Returns once there is a head, or an error instead."""
        while self.headers is None and not self.over:
            await self._changed.wait()

    async def more(self, place: Place) -> tuple[list[bytes], bool]:
        """The next frames, and whether they are the last; none and true for a reader that was given up."""
        while place is self.caller or place is self.store:
            start = place.at + 1 - self._first
            batch = self._frames[start : start + READ_FRAMES]
            end = self.over and start + len(batch) == len(self._frames)
            if batch or end:
                place.at += len(batch)
                place.passed += sum(map(len, batch))
                self._trim()
                self._tell()
                return batch, end
            await self._changed.wait()
        return [], True

    def caller_left(self) -> None:
        self.caller = None
        self._trim()
        self._tell()

    def store_left(self) -> None:
        self.store = None
        self._trim()

    def _take(self, data: bytes) -> None:
        for number, frame in enumerate(frames_of(data), self._first + len(self._frames)):
            whole = b"%b%d\n%b" % (self._name, number, frame)
            self._frames.append(whole)
            self._total += len(whole)
            self._memory.used += len(whole)
        store, memory = self.store, self._memory
        if store is not None and (self._total - store.passed > self._limit or memory.used > memory.limit):
            self.store = None
        if self.store is None and self.caller is None:
            self._trim()

    def _trim(self) -> None:
        """Lets go of what both readers have."""
        newest = self._first + len(self._frames) - 1
        passed = min([place.at for place in (self.caller, self.store) if place is not None], default=newest)
        gone = passed + 1 - self._first
        if gone > 0:
            self._memory.used -= sum(map(len, self._frames[:gone]))
            del self._frames[:gone]
            self._first += gone

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
