"""Deadlines travel with the call; retries and phases spend from the same one."""

import asyncio

from msgspec import Struct
from msgspec.structs import asdict, replace

from headgate.core.clock import Clock
from headgate.core.rules import Patience


class Deadline(Struct, frozen=True):
    """A point on the monotonic clock (seconds) by which a call must have ended."""

    at: float

    @classmethod
    def after(cls, clock: Clock, seconds: float) -> "Deadline":
        return cls(clock.monotonic() + seconds)

    def remaining(self, clock: Clock) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self.at - clock.monotonic())

    def within(self, clock: Clock, seconds: float | None = None) -> asyncio.Timeout:
        """A scope that ends at the deadline, or after `seconds` if that is sooner; raises `TimeoutError`."""
        left = self.remaining(clock)
        return asyncio.timeout(left if seconds is None else min(left, seconds))


class Timeouts(Struct, frozen=True, forbid_unknown_fields=True):
    """How long each phase of an upstream call may take, in seconds."""

    connect_s: float = 5.0
    first_token_s: float = 60.0
    """From the request sent to the first token of a stream, or the first byte of a whole answer's body."""
    between_tokens_s: float = 30.0
    total_s: float = 600.0
    min_tokens_per_s: float = 0.0
    """A stream that is slower than this for ten seconds of waiting is ended. 0: no stream is too slow."""

    def under(self, patience: Patience) -> "Timeouts":
        """These, where the route has none of its own."""
        own = {name: value for name, value in asdict(patience).items() if value is not None}
        return replace(self, **own)
