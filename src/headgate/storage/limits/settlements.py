"""Claims that ended and wait to be written to the store: a bounded queue, and the one task that empties it."""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Generic, Literal, Protocol, TypeVar

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.tasks import Tasks

QUEUE_MAX = 20_000
"""Entries of each kind that wait, some 10 MB."""
BATCH = 200
"""Written in one round trip."""
FLUSH_S = 5.0
BACKOFF_S = (0.05, 2.0)
"""The first wait while the store is away, doubled each time up to the second."""
_LOOK_S = 0.05
"""How often one who waits looks whether the store is back."""


class Entry(Protocol):
    claim: str


E = TypeVar("E", bound=Entry)

Outcome = Literal["written", "again", "lost"]
Write = Callable[[Sequence[E]], Awaitable[Sequence[Outcome]]]
"""Writes entries and says what became of each. `Overloaded` where the store cannot be reached: all again."""


class Lane(Generic[E]):
    """One kind of entry, in order. When full, the oldest make place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[E] = deque()
        self.added = 0
        self.ended = 0
        """Written or lost."""
        self.lost = 0
        self.claims: Counter[str] = Counter()
        """Of entries that are not written yet."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, entry: E) -> None:
        self.added += 1
        self.claims[entry.claim] += 1
        self._waiting.append(entry)
        self._bound()

    def end(self, entry: E, lost: bool) -> None:
        """It is written, or lost."""
        self.ended += 1
        self.lost += lost
        self.claims[entry.claim] -= 1
        if not self.claims[entry.claim]:
            del self.claims[entry.claim]

    def next(self) -> list[E]:
        """Up to a batch, which stays the caller's until it says what became of it."""
        batch = list(islice(self._waiting, BATCH))
        for _ in batch:
            self._waiting.popleft()
        return batch

    def again(self, entries: Sequence[E]) -> None:
        """Next, in their order."""
        self._waiting.extendleft(reversed(entries))
        self._bound()

    def later(self, entries: Sequence[E]) -> None:
        """After all others."""
        self._waiting.extend(entries)
        self._bound()

    def _bound(self) -> None:
        while len(self._waiting) > self._most:
            self.end(self._waiting.popleft(), lost=True)


class Settlements(Generic[E]):
    """What must be written (`settled`), and what should be (`cancelled`): apart, since while the store is away every
    claim that fails leaves one of the latter, and those must not push out what was really used.
    """

    def __init__(self, clock: Clock, write: Write[E], most: int = QUEUE_MAX) -> None:
        self._clock = clock
        self._write = write
        self.settled: Lane[E] = Lane(most)
        self.cancelled: Lane[E] = Lane(most)
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        self._tasks = Tasks(limit=1)
        self._closed = False
        self._reached = False

    def reached(self) -> None:
        """The store has just answered: what waits for it to come back is written now.

        Else the ledger could be ahead of it, be brought to it, and what is written later would count twice.
        """
        self._reached = True

    def add(self, lane: Lane[E], entry: E) -> None:
        if self._closed:
            lane.added += 1
            lane.lost += 1
            return
        lane.add(entry)
        self._wake.set()
        if not len(self._tasks):
            self._tasks.spawn(self._run(), name="limits.settlements")

    def waits(self, claim: str) -> bool:
        """Whether an end of the claim is not written yet."""
        return claim in self.settled.claims or claim in self.cancelled.claims

    async def flush(self) -> None:
        """Waits until all that was added before is written; raises `Overloaded` after `FLUSH_S`."""
        goals = [(lane, lane.added) for lane in (self.settled, self.cancelled)]
        try:
            async with asyncio.timeout(FLUSH_S):
                while any(lane.ended < goal for lane, goal in goals):
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError as error:
            raise Overloaded(
                f"The limit store did not take what was settled within {FLUSH_S:g} s; it will be tried again.",
                code="limits_unavailable",
                retry_after=1.0,
            ) from error

    async def aclose(self) -> None:
        """Call `flush` first. What still waits is lost, and counted as such."""
        self._closed = True
        await self._tasks.aclose()
        for lane in (self.settled, self.cancelled):
            lane.lost += sum(lane.claims.values())

    async def _run(self) -> None:
        backoff_s = BACKOFF_S[0]
        while True:
            lane = self.settled if len(self.settled) else self.cancelled
            batch = lane.next()
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            outcomes: Sequence[Outcome] = ["again"] * len(batch)
            self._reached = False
            with contextlib.suppress(Overloaded):
                outcomes = await self._write(batch)
            for entry, outcome in zip(batch, outcomes, strict=True):
                if outcome != "again":
                    lane.end(entry, lost=outcome == "lost")
            again = [entry for entry, outcome in zip(batch, outcomes, strict=True) if outcome == "again"]
            self._progress.set()
            if len(again) < len(batch):  # the server has something against these alone: the others go on
                lane.later(again)
                backoff_s = BACKOFF_S[0]
            else:
                lane.again(again)
                await self._rest(backoff_s)
                backoff_s = min(BACKOFF_S[1], 2 * backoff_s)

    async def _rest(self, seconds: float) -> None:
        """So long, and no longer than until the store answers somebody."""
        end = self._clock.monotonic() + seconds
        while not self._reached and (left := end - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, _LOOK_S))
