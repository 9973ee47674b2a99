"""What a chaos proxy does to the bytes that pass: the bad weather of a network."""

import random
from dataclasses import dataclass, field
from typing import Literal

import msgspec

_MOST = 1 << 16
_TICKS = 20
"""Pieces per second into which a narrow line cuts what passes."""


class Weather(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `POST /` takes it; what is not given is fair. Sizes are bytes, those of one connection and direction."""

    latency_ms: float = 0.0
    """Added to every piece; the line holds many at once, so that the bandwidth stays."""
    jitter_ms: float = 0.0
    """Up to so much more, by chance; the order stays."""
    bytes_per_s: float = 0.0
    """Of each direction of each connection; 0: no limit."""
    slice: int = 0
    """Bytes of a piece at most, each in a segment of its own; 0: as they come."""
    slice_ms: float = 0.0
    """Pause between pieces."""
    reset_after: int | None = None
    """Resets both sides after so many bytes."""
    cut_after: int | None = None
    """Closes both sides (FIN) after so many bytes."""
    stall: bool = False
    """Nothing passes, until told otherwise."""
    refuse: bool = False
    """Takes no connection."""
    direction: Literal["both", "up", "down"] = "both"
    """Which way all this is meant, but `refuse`: up is towards the server."""

    def __post_init__(self) -> None:
        for name in ("latency_ms", "jitter_ms", "bytes_per_s", "slice", "slice_ms"):
            if not 0 <= getattr(self, name) <= 1e9:
                raise ValueError(f"{name}: a number from 0 to 1e9 is needed")
        for name in ("reset_after", "cut_after"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}: a number of bytes of 0 or more is needed")


FAIR = Weather()


@dataclass(slots=True)
class Lane:
    """One direction of one connection: decides in what pieces and when its bytes go on."""

    way: Literal["up", "down"]
    rng: random.Random
    passed: int = 0
    """Bytes that went on."""
    _due: float = field(default=0.0)
    """When the piece before is through, monotonic seconds."""

    def here(self, weather: Weather) -> Weather:
        """The weather on this lane."""
        return weather if weather.direction in {"both", self.way} else FAIR

    def pieces(self, data: bytes, weather: Weather) -> list[bytes]:
        """Cuts what came into what goes on at once."""
        size = weather.slice or _MOST
        if weather.bytes_per_s:
            size = max(min(size, int(weather.bytes_per_s / _TICKS)), 1)
        return [data[place : place + size] for place in range(0, len(data), size)]

    def due(self, size: int, now: float, weather: Weather) -> float:
        """When a piece of this size, in hand now, goes on: monotonic seconds, never before the one before it."""
        wait = weather.latency_ms + (self.rng.uniform(0, weather.jitter_ms) if weather.jitter_ms else 0.0)
        arrives = now + wait / 1000
        narrow = size / weather.bytes_per_s if weather.bytes_per_s else 0.0
        self._due = max(arrives, self._due + weather.slice_ms / 1000 if weather.slice else self._due) + narrow
        return self._due

    def left(self, weather: Weather) -> int | None:
        """Bytes until the connection is to break; None: it is not."""
        limits = [limit for limit in (weather.reset_after, weather.cut_after) if limit is not None]
        return max(min(limits) - self.passed, 0) if limits else None
