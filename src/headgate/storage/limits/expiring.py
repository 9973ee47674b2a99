"""A bounded mapping of things that end at a time of their own and move that time themselves."""

import heapq
from typing import Generic, Protocol, TypeVar

from headgate.core.errors import Overloaded

_SWEEP = 4
"""Ended entries dropped for each new one: more than come in, so none pile up."""


class Ending(Protocol):
    end: float
    """After it, the entry means nothing any more."""


E = TypeVar("E", bound=Ending)


class Expiring(Generic[E]):
    """At most `limit` entries that have not ended. `entries` is for reading: it may hold ended ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.entries: dict[str, E] = {}
        self._queue: list[tuple[float, str]] = []
        """One of each entry: the end it had when last looked at, so an entry may outlive its turn but never miss it."""

    def __len__(self) -> int:
        return len(self.entries)

    def room(self, new: int, now: float) -> None:
        """Raises `Overloaded` unless `new` more could be added."""
        self._sweep(now, _SWEEP * new)
        if len(self.entries) + new > self._limit:
            self._sweep(now, len(self.entries))
        if len(self.entries) + new > self._limit:
            raise Overloaded(
                f"This process counts {self._limit} limits of one kind already, the most it can; try again shortly.",
                code="limits_full",
                retry_after=1.0,
            )

    def add(self, key: str, entry: E) -> None:
        """Replaces what may be there. Ask for `room` first."""
        if key not in self.entries:
            heapq.heappush(self._queue, (entry.end, key))
        self.entries[key] = entry

    def _sweep(self, now: float, most: int) -> None:
        queue, entries = self._queue, self.entries
        while most > 0 and queue and queue[0][0] < now:
            key = queue[0][1]
            end = entries[key].end
            if end < now:
                heapq.heappop(queue)
                del entries[key]
                most -= 1
            else:
                heapq.heapreplace(queue, (end, key))
