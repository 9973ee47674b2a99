"""The counters port: rate limits, concurrency leases and small values that all replicas share.

Here rather than in `storage`, because the request path is handed the port and never imports a driver.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

VALUE_BYTES_MAX = 64 * 1024


class Take(Struct, frozen=True):
    """A wish to take `cost` from the bucket `key`; a negative cost gives back.

    A bucket never seen is full. It holds up to `capacity` and fills by `refill_per_s` every second; both are above
    zero. They may differ from the last time: what was used stays used. Raises `ValueError` on other numbers.
    """

    key: str
    cost: float
    capacity: float
    refill_per_s: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.cost):
            raise ValueError(f"the cost of bucket {self.key!r} is {self.cost}, not a finite number")
        if not 0 < self.capacity < math.inf or not 0 < self.refill_per_s < math.inf:
            raise ValueError(f"bucket {self.key!r} needs a capacity and a refill above zero")


class BucketState(Struct, frozen=True):
    """A bucket after the decision. `remaining` is below zero while a forced cost is being worked off."""

    remaining: float
    reset_s: float
    """Seconds until it is full, if nobody takes more."""


class Decision(Struct, frozen=True):
    """What `take` decided; `states` in the order asked."""

    allowed: bool
    states: tuple[BucketState, ...]
    refused: int | None = None
    """The index of the bucket to wait for longest; None where allowed."""
    retry_after: float = 0.0
    """Seconds until the same take could pass, if nobody takes more; infinite where a cost exceeds its capacity."""


class Counters(Protocol):
    """Shared counters. Each method is atomic, bounded by the driver's timeout, and raises `core.errors.Overloaded`
    where the store cannot be reached or is full. Buckets, leases and values have separate names.
    """

    async def take(self, takes: Sequence[Take], *, force: bool = False) -> Decision:
        """Takes from every bucket, or from none: one bucket that lacks the cost refuses all.

        A cost of zero or below is never refused: zero asks for the state, a negative cost gives back, never above
        capacity. `force` takes in any case, below zero if need be: for what has been used already.
        No key may be named twice.
        """
        ...

    async def acquire(self, key: str, holder: str, limit: int, ttl_s: float) -> bool:
        """Takes one of `limit` places of `key` for `ttl_s` seconds; False where all are taken.

        The same holder again keeps its place and extends it. A place whose holder dies frees itself.
        """
        ...

    async def release(self, key: str, holder: str) -> bool:
        """Gives the holder's place back; False where it had none (any more)."""
        ...

    async def count(self, key: str) -> int:
        """How many places of `key` are taken."""
        ...

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keeps a value of at most `VALUE_BYTES_MAX` bytes for `ttl_s` seconds; raises `ValueError` beyond."""
        ...

    async def delete(self, key: str) -> bool:
        """False where there was nothing."""
        ...

    async def incr(self, key: str, by: int, ttl_s: float) -> int:
        """Adds to a whole number and returns the sum. The time to live starts with the first; later ones keep it.

        Raises `ValueError` where the value is no whole number, or the sum needs more than 64 bits.
        """
        ...

    async def ping(self) -> None:
        """Raises `Overloaded` where the store does not answer."""
        ...

    async def aclose(self) -> None: ...


def check_value(value: bytes) -> None:
    """Raises `ValueError` for a value that is no small one."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(value)} bytes is over the counters' limit of {VALUE_BYTES_MAX}")


def check_ttl(ttl_s: float) -> None:
    """Raises `ValueError` unless the time to live is at least a millisecond, and finite."""
    if not 0.001 <= ttl_s < 1e9:
        raise ValueError(f"a time to live of {ttl_s} s is not between 0.001 and 1e9")


def check_takes(takes: Sequence[Take]) -> None:
    """Raises `ValueError` where one bucket is named twice: its cost could not be judged at once."""
    if len(takes) > 1 and len({take.key for take in takes}) != len(takes):
        raise ValueError("one take names a bucket twice; add the costs instead")
