"""How many calls a backend takes at once: a fixed number, or found from its latency.

`Adaptive` follows two ideas: TCP Vegas (Brakmo, O'Malley, Peterson, SIGCOMM 1994), that latency above that of an
unloaded path is queueing at the other end, and the gradient limits of Netflix's concurrency-limits, that the limit
moves with the ratio of the two. What is its own: a window of calls is judged by its median with the median's own
uncertainty, calls of different kinds have baselines of their own, and a cut is computed from the calls in flight when
the window's calls began, so it acts however far above the limit starts, and repeating it does no harm.

The signal must not depend on how long an answer is. For a stream it is the time to the first piece; for a whole body
the time per output token; for what has no output tokens (embeddings) the whole time. Each is a `kind`.
"""

import math
from typing import Annotated, Protocol

from msgspec import Meta, Struct

KINDS_MAX = 16
"""Kinds with a baseline of their own; further ones share one."""
_WINDOW_MIN, _WINDOW_MAX = 10, 64
_CUT_MOST = 0.25
"""What one window's verdict leaves of the calls in flight, at least."""
_DROP = 0.8
_DROP_EVERY_S = 1.0
"""Drops within this time of each other are one event."""
_SURE = 3.0
"""Standard errors by which a median must be off before it counts."""
_DIP = 0.7

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class AdaptiveSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds of a limit that is found from latency."""

    initial: _Count = 1_000
    min: _Count = 2
    max: _Count = 1_000
    tolerance: Annotated[float, Meta(gt=1, le=10)] = 1.25
    """Latency above this many times the unloaded one is queueing."""
    rise_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    """How slowly the baseline follows latency upwards (seconds, time constant)."""
    dip_every_s: Annotated[float, Meta(ge=1, le=86_400)] = 20.0
    """How often a limit in use is lowered for a moment to see the unloaded latency again, if the baseline has risen."""


class Capacity(Protocol):
    """How many calls at once, and what it learns from."""

    @property
    def limit(self) -> int: ...

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "") -> None:
        """A call answered; `in_flight` counts the calls there were when it began, itself included."""

    def dropped(self, in_flight: int, now: float) -> None:
        """A call timed out, or the backend refused it as too much."""


class Fixed:
    """Always `n`."""

    def __init__(self, n: int) -> None:
        self.limit = n

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "") -> None:
        """Nothing to learn."""

    def dropped(self, in_flight: int, now: float) -> None:
        """Nothing to learn."""


class _Reading(Struct, frozen=True):
    """What one window says."""

    median: float
    ratio: float
    in_flight: float
    slow: bool
    """Above the tolerance, and surely."""


class _Signal:
    """The latency of one kind of call: a window of the last ones, and a baseline, quick to fall and slow to rise."""

    def __init__(self, settings: AdaptiveSettings) -> None:
        self._settings = settings
        self._latencies: list[float] = []
        self._in_flight = 0
        self._closed_at: float | None = None
        self.baseline: float | None = None
        self.lowest = 0.0
        """The baseline at the last dip."""

    def add(self, latency_s: float, in_flight: int, now: float, size: int) -> _Reading | None:
        self._latencies.append(latency_s)
        self._in_flight += in_flight
        if len(self._latencies) < size:
            return None
        reading = self._close(now)
        self._latencies.clear()
        self._in_flight = 0
        return reading

    def _close(self, now: float) -> _Reading:
        values = sorted(self._latencies)
        count = len(values)
        median = values[count // 2]
        # The spread of the middle half gives the median's standard error, in logarithms as latencies are skewed.
        spread = math.log(values[3 * count // 4] / values[count // 4]) / 1.35
        error = 1.25 * spread / math.sqrt(count)
        elapsed = 0.0 if self._closed_at is None else now - self._closed_at
        self._closed_at = now
        if self.baseline is None:
            self.baseline = self.lowest = median
        ratio = median / self.baseline
        slow = ratio > self._settings.tolerance and math.log(ratio) > _SURE * error
        surely_at_most = median * math.exp(2 * error)
        if surely_at_most < self.baseline:
            self.baseline = surely_at_most
            self.lowest = min(self.lowest, surely_at_most)
        elif median > self.baseline:
            self.baseline += (median - self.baseline) * -math.expm1(-elapsed / self._settings.rise_s)
        return _Reading(median, ratio, self._in_flight / count, slow)

    def accept(self, median: float) -> None:
        """This is what unloaded looks like now."""
        self.baseline = self.lowest = median

    @property
    def risen(self) -> bool:
        return self.baseline is not None and self.baseline > 1.03 * self.lowest


class Adaptive:
    """The limit found from latency: generous at first, cut where calls queue at the backend, grown while it is used."""

    def __init__(self, settings: AdaptiveSettings) -> None:
        self.settings = settings
        self._limit = float(min(settings.max, max(settings.min, settings.initial)))
        self._signals: dict[str, _Signal] = {}
        self._suspect: dict[str, bool] = {}
        self._episode: tuple[float, float] | None = None
        """Where cutting began: calls in flight, median."""
        self._dropped_at = -math.inf
        self._dipped_at: float | None = None
        self._dip_left = 0

    @property
    def limit(self) -> int:
        limit = self._limit * _DIP if self._dip_left > 0 else self._limit
        return max(self.settings.min, int(limit))

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "") -> None:
        if not 0 < latency_s < math.inf:
            return
        if kind not in self._signals and len(self._signals) >= KINDS_MAX:
            kind = "others"
        signal = self._signals.get(kind)
        if signal is None:
            signal = self._signals[kind] = _Signal(self.settings)
        size = min(_WINDOW_MAX, max(_WINDOW_MIN, self.limit))
        reading = signal.add(latency_s, in_flight, now, size)
        if self._dip_left > 0:
            self._dip_left -= 1
        if reading is not None:
            self._decide(kind, signal, reading, now)

    def dropped(self, in_flight: int, now: float) -> None:
        if now - self._dropped_at < _DROP_EVERY_S:
            return
        self._dropped_at = now
        self._set(_DROP * max(min(in_flight, self._limit), self._limit / 2))

    def _decide(self, kind: str, signal: _Signal, reading: _Reading, now: float) -> None:
        before = self._suspect.get(kind, False)
        self._suspect[kind] = reading.slow
        if reading.slow:
            if before or reading.ratio > 2 * self.settings.tolerance:
                self._cut(signal, reading)
            return
        self._episode = None
        if reading.ratio > (1 + self.settings.tolerance) / 2 or reading.in_flight < 0.75 * self.limit:
            return
        self._set(self._limit + max(1.0, math.sqrt(self._limit)))

    def _cut(self, signal: _Signal, reading: _Reading) -> None:
        if self._episode is None:
            self._episode = (reading.in_flight, reading.median)
        began_at, began_with = self._episode
        if reading.in_flight <= began_at / 2 and reading.median > 0.75 * began_with:
            # Half the calls and still as slow: it is not our queue. The backend has become slower for good.
            signal.accept(reading.median)
            self._episode = None
            self._set(max(self._limit, began_at))
            return
        share = max(_CUT_MOST, self.settings.tolerance / reading.ratio)
        self._set(min(self._limit, reading.in_flight * share))

    def _set(self, limit: float) -> None:
        self._limit = min(float(self.settings.max), max(float(self.settings.min), limit))
