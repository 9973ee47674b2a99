"""Counters of one process: exact, bounded, gone with the process.

No method waits for anything, which is what makes each atomic.
"""

import heapq
from collections.abc import Sequence
from typing import Generic, TypeVar

from headgate.core.clock import Clock
from headgate.core.counters import check_ttl, check_value
from headgate.core.errors import Overloaded

KEYS_MAX = 1_000_000
"""Keys of each kind: some 300 MB at worst. What expired is no key any more."""
_SWEEP = 4
"""Expired keys dropped with each new one: more than come in, so none pile up."""
_INT64 = 2**63

T = TypeVar("T")


class _Expiring(Generic[T]):
    """A mapping whose entries end at a time of their own; at most `limit` that have not."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[str, tuple[float, T]] = {}
        self._queue: list[tuple[float, str]] = []
        """One per entry, with an end no later than the entry's own."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str, now: float) -> T | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] > now else None

    def end(self, key: str, now: float) -> float:
        """When the entry ends; `now` where there is none."""
        entry = self._entries.get(key)
        return max(now, entry[0]) if entry is not None else now

    def room(self, keys: Sequence[str], now: float) -> None:
        """Raises `Overloaded` unless all `keys` could be put."""
        new = len([key for key in keys if key not in self._entries])
        if not new:
            return
        self._sweep(now, _SWEEP * new)
        if len(self._entries) + new > self._limit:
            self._sweep(now, len(self._entries))
        if len(self._entries) + new > self._limit:
            raise Overloaded(
                f"The counters hold {self._limit} keys already, their limit; try again shortly.",
                code="counters_full",
                retry_after=1.0,
            )

    def put(self, key: str, value: T, end: float) -> None:
        entry = self._entries.get(key)
        if entry is None or end < entry[0]:
            heapq.heappush(self._queue, (end, key))
            if len(self._queue) > 2 * len(self._entries) + 64:
                self._queue = [(e, k) for k, (e, _) in self._entries.items() if k != key] + [(end, key)]
                heapq.heapify(self._queue)
        self._entries[key] = (end, value)

    def drop(self, key: str, now: float) -> T | None:
        entry = self._entries.pop(key, None)
        return entry[1] if entry is not None and entry[0] > now else None

    def _sweep(self, now: float, most: int) -> None:
        while most > 0 and self._queue and self._queue[0][0] <= now:
            _, key = heapq.heappop(self._queue)
            entry = self._entries.get(key)
            if entry is not None and entry[0] <= now:
                del self._entries[key]
                most -= 1
            elif entry is not None:
                heapq.heappush(self._queue, (entry[0], key))


class MemoryCounters:
    """`core.counters.Counters` in this process. Time is the clock's monotonic one."""

    def __init__(self, clock: Clock, keys_max: int = KEYS_MAX) -> None:
        self._clock = clock
        self._leases: _Expiring[dict[str, float]] = _Expiring(keys_max)
        """The end of each holder's place."""
        self._values: _Expiring[bytes] = _Expiring(keys_max)

    def __len__(self) -> int:
        """Keys held, expired ones not yet swept included."""
        return len(self._leases) + len(self._values)

    async def acquire(self, key: str, holder: str, limit: int, ttl_s: float) -> bool:
        check_ttl(ttl_s)
        now = self._clock.monotonic()
        holders = self._leases.get(key, now) or {}
        if len(holders) >= limit:
            for name in [name for name, end in holders.items() if end <= now]:
                del holders[name]
            if holder not in holders and len(holders) >= limit:
                return False
        self._leases.room([key], now)
        holders[holder] = now + ttl_s
        self._leases.put(key, holders, max(self._leases.end(key, now), now + ttl_s))
        return True

    async def release(self, key: str, holder: str) -> bool:
        now = self._clock.monotonic()
        holders = self._leases.get(key, now) or {}
        held = holders.pop(holder, now) > now
        if not holders:
            self._leases.drop(key, now)
        return held

    async def count(self, key: str) -> int:
        now = self._clock.monotonic()
        return sum(end > now for end in (self._leases.get(key, now) or {}).values())

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key, self._clock.monotonic())

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        check_value(value)
        check_ttl(ttl_s)
        now = self._clock.monotonic()
        self._values.room([key], now)
        self._values.put(key, value, now + ttl_s)

    async def delete(self, key: str) -> bool:
        return self._values.drop(key, self._clock.monotonic()) is not None

    async def incr(self, key: str, by: int, ttl_s: float) -> int:
        check_ttl(ttl_s)
        now = self._clock.monotonic()
        held = self._values.get(key, now)
        total = _whole(key, held or b"0") + by
        if not -_INT64 <= total < _INT64:
            raise ValueError(f"counter {key!r} would exceed 64 bits")
        self._values.room([key], now)
        self._values.put(key, b"%d" % total, now + ttl_s if held is None else self._values.end(key, now))
        return total

    async def ping(self) -> None:
        return

    async def aclose(self) -> None:
        return


def _whole(key: str, value: bytes) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise ValueError(f"counter {key!r} is no whole number of 64 bits") from error
