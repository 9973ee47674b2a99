"""An answer as it comes, for everyone who follows it."""

import asyncio
import copy
from collections.abc import Sequence

from headgate.core.errors import HeadgateError, Overloaded
from headgate.core.reply import Header
from headgate.ledger.idempotency.ask import too_large

KEPT_HEADERS = (
    b"x-headgate-backend",
    b"x-headgate-replica",
    b"x-headgate-level",
    b"x-headgate-model",
    b"x-headgate-switched-from",
    b"x-headgate-downgraded-from",
    b"x-upstream-",
    b"openai-version",
)
"""Beginnings of the reply's headers that tell of the answer itself; the others tell of the call, and are its own."""
AHEAD = 256 * 1024
"""Bytes by which the writer of a large answer may be ahead of the slowest who follows it."""
BATCH = 32
"""Frames that a follower takes at once, at most: those of a stream that is ahead of it."""


class Memory:
    """Bytes that all recordings of a process hold together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0


class Follower:
    """One caller's place in a recording."""

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at = 0


class Recording:
    """Head, frames and end of one answer. Written by one task, followed by any number from the beginning.

    An answer that grows beyond `limit` bytes, or would overfill the process's `memory`, is `large`: what all followers
    have is let go, so that nobody can join any more, and the writer waits for the slowest of them.
    """

    def __init__(self, limit: int, memory: Memory) -> None:
        self._limit = limit
        self._memory = memory
        self._frames: list[bytes] = []
        self._first = 0
        """The number of the first frame still held."""
        self._held = 0
        self._changed = asyncio.Event()
        self._followers: set[Follower] = set()
        self.headers: tuple[Header, ...] | None = None
        """The reply's; None until it has begun."""
        self.last: bytes | None = None
        """The last bytes; None until it is complete."""
        self.error: HeadgateError | None = None
        self.large = False

    # Whoever writes

    def begin(self, headers: Sequence[Header]) -> None:
        self.headers = tuple(headers)
        self._tell()

    async def write(self, data: bytes) -> None:
        """One or more whole frames."""
        self._frames.append(data)
        self._hold(len(data))
        if self.large:
            self._trim()
        self._tell()
        while self.large and self._held > AHEAD:
            await self._changed.wait()

    def nudge(self, _data: bytes) -> None:
        """Heartbeats belong to connections and are not recorded."""

    def whole(self, last: bytes) -> bytes | None:
        """Everything up to `last`, which follows now; None where that is too large."""
        self._hold(len(last))
        return None if self.large else b"".join((*self._frames, last))

    def end(self, last: bytes) -> None:
        self.last = last
        self._tell()

    def replay(self, headers: Sequence[Header], content: bytes) -> None:
        """All of an answer that was kept. Raises `Overloaded` where the process holds too much for it at present."""
        if self._memory.used and self._memory.used + len(content) > self._memory.limit:
            raise Overloaded(
                "Too many answers are being replayed at once (idempotency.memory_mb). Try again shortly.",
                retry_after=1.0,
            )
        self._held += len(content)
        self._memory.used += len(content)
        self.begin(headers)
        self.end(content)

    def fail(self, error: HeadgateError) -> None:
        """There will be no more. What has ended already stays as it is."""
        if self.last is None and self.error is None:
            self.error = error
        self._tell()

    # Whoever follows

    def join(self) -> Follower:
        """Raises `Conflict` where the beginning is gone."""
        if self.large:
            raise too_large()
        follower = Follower()
        self._followers.add(follower)
        return follower

    def leave(self, follower: Follower) -> None:
        self._followers.discard(follower)
        if self.large:
            self._trim()
            self._tell()

    @property
    def followed(self) -> bool:
        return bool(self._followers)

    async def begun(self) -> None:
        """Returns once there is a head, or an error."""
        while self.headers is None and self.error is None:
            await self._changed.wait()

    async def more(self, follower: Follower) -> bytes:
        """The next frames, without `last`; empty at the end. Raises the error in which the answer ended."""
        while True:
            start = follower.at - self._first
            batch = self._frames[start : start + BATCH]
            if batch:
                follower.at += len(batch)
                if self.large:
                    self._trim()
                    self._tell()
                return batch[0] if len(batch) == 1 else b"".join(batch)
            if self.error is not None:
                raise copy.copy(self.error) from self.error  # each caller's own: its traceback grows
            if self.last is not None:
                return b""
            await self._changed.wait()

    def forget(self) -> None:
        """Nobody will come any more: its bytes no longer count."""
        self._memory.used -= self._held
        self._held = 0
        self._frames.clear()

    def _hold(self, size: int) -> None:
        self._held += size
        self._memory.used += size
        self.large = self.large or self._held > self._limit or self._memory.used > self._memory.limit

    def _trim(self) -> None:
        """Lets go of what every follower has."""
        passed = min((follower.at for follower in self._followers), default=self._first + len(self._frames))
        gone = self._frames[: passed - self._first]
        del self._frames[: len(gone)]
        self._first = passed
        size = sum(map(len, gone))
        self._held -= size
        self._memory.used -= size

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
