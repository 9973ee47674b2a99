"""Signs of life: is a replica that has calls still making tokens?

The path adds one to a counter per piece; everything else is found by sampling the counters now and then.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Finding = Literal["fine", "silent", "stuck"]
_Seconds = Annotated[float, Meta(gt=0, le=3_600)]
_MEMORY = 0.8
"""How much of the usual gap each sample keeps."""


class WatchSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """When silence is suspicious."""

    sample_s: _Seconds = 0.1
    """How often the counters are looked at."""
    silent_s: _Seconds = 1.0
    """A replica with calls that has sent nothing at all for so long is asked at once whether it is there,"""
    silent_factor: Annotated[float, Meta(ge=1, le=1_000)] = 5.0
    """unless so many of its usual gaps are longer than that."""
    no_progress_s: _Seconds = 10.0
    """No token for so long while streams wait for their first: it is stuck, whatever its health page says. Where they
    usually wait longer, `silent_factor` times that counts: some models think before they speak."""
    min_waiting: Annotated[int, Meta(ge=1, le=1_000_000)] = 2
    """So many streams must wait: one alone may just have a very long prompt."""


class Pulse:
    """One replica's counters. `beats` are pieces of answers, `heads` other signs of life, such as response heads."""

    __slots__ = ("beats", "first_s", "heads", "in_flight", "waiting")

    def __init__(self) -> None:
        self.beats = 0
        self.heads = 0
        self.in_flight = 0
        self.waiting = 0
        """Streams in flight without a first piece."""
        self.first_s = 0.0
        """After how long they usually begin; 0 before the first did."""

    def began_after(self, seconds: float) -> None:
        self.first_s = _MEMORY * self.first_s + (1 - _MEMORY) * seconds if self.first_s else seconds


class Sense:
    """What a replica's pulse means over time. `look` is called every `sample_s`."""

    __slots__ = ("_beats", "_gap", "_heads", "_heard", "_moved", "_settings", "_waiting_since")

    def __init__(self, settings: WatchSettings) -> None:
        self._settings = settings
        self._beats = 0
        self._heads = 0
        self._heard: float | None = None
        """When it was last heard of, or became busy; None while it is idle."""
        self._moved = 0.0
        """The same, of pieces alone."""
        self._gap: float | None = None
        """Its usual seconds between two signs of life while it is busy."""
        self._waiting_since: float | None = None

    @property
    def silent_after(self) -> float | None:
        """How long a silence is a suspicious one; None while nothing is known of its usual gaps."""
        settings = self._settings
        return None if self._gap is None else max(settings.silent_s, settings.silent_factor * self._gap)

    def look(self, pulse: Pulse, now: float) -> Finding:
        beats, signs = pulse.beats - self._beats, pulse.beats + pulse.heads - self._beats - self._heads
        self._beats, self._heads = pulse.beats, pulse.heads
        if self._heard is None or not pulse.in_flight:
            self._heard = now if pulse.in_flight else None
            self._moved = now
        elif signs:
            gap = (now - self._heard) / signs
            self._gap = gap if self._gap is None else _MEMORY * self._gap + (1 - _MEMORY) * gap
            self._heard = now
        if beats:
            self._moved = now
        if pulse.waiting < self._settings.min_waiting:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        return self._judge(pulse, now)

    def _judge(self, pulse: Pulse, now: float) -> Finding:
        if self._heard is None:
            return "fine"
        if self._waiting_since is not None:
            still = now - max(self._moved, self._waiting_since)
            if still >= max(self._settings.no_progress_s, self._settings.silent_factor * pulse.first_s):
                return "stuck"
        limit = self.silent_after
        return "silent" if limit is not None and now - self._heard >= limit else "fine"
