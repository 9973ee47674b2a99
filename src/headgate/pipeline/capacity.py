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
_OTHERS = "others"
_WINDOW_LEAST, _WINDOW_ENOUGH, _WINDOW_MOST = 12, 64, 1_000
_LASTING = 1.5
_SURE = 3.0
"""Standard errors by which a median must be off before it counts."""
_USED = 0.75
"""A limit grows only while at least this much of it is used."""
_CUT_MOST = 0.25
"""What one window's verdict leaves of the calls in flight, at least."""
_DROP = 0.8
_DROP_EVERY_S = 1.0
"""Drops within this time of each other are one event."""
_RISE = 0.01
"""How far a window above the baseline lifts it."""
_DIP_TO = 0.6
_DIP_EVERY, _DIP_SOON = 20, 4
_DIP_MOST = 6
"""A dip to this share of the limit, every so many windows (or sooner), for so many windows at most."""

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class AdaptiveSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds of a limit that is found from latency."""

    initial: _Count = 1_000
    min: _Count = 2
    max: _Count = 1_000
    tolerance: Annotated[float, Meta(gt=1, le=10)] = 1.25
    """Latency above this many times the unloaded one is queueing."""


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


class _Window:
    """Latencies of one kind, and the calls in flight when each began.

    It is full when it has enough calls and has lasted `lasting` times the given latency: of calls that begin together
    the first to end are the quick ones.
    """

    __slots__ = ("_began", "_in_flight", "_latencies", "_sum")

    def __init__(self) -> None:
        self._latencies: list[float] = []
        self._in_flight: list[int] = []
        self._sum = 0.0
        self._began = 0.0

    def add(self, latency_s: float, in_flight: int, now: float) -> None:
        if not self._latencies:
            self._began = now
        self._latencies.append(latency_s)
        self._in_flight.append(in_flight)
        self._sum += latency_s

    def full(self, size: int, now: float, latency_s: float) -> bool:
        count = len(self._latencies)
        if count < size:
            return False
        return now - self._began >= _LASTING * min(latency_s, self._sum / count) or count >= _WINDOW_MOST

    @property
    def in_flight(self) -> float:
        return sum(self._in_flight) / len(self._in_flight)

    def median(self) -> tuple[float, float]:
        """With its standard error, in logarithms as latencies are skewed, from the spread of the middle half."""
        values = sorted(self._latencies)
        count = len(values)
        spread = math.log(values[3 * count // 4] / values[count // 4]) / 1.35
        return values[count // 2], 1.25 * spread / math.sqrt(count)

    def least_loaded(self, now: float) -> float | None:
        """The median latency of the quarter that began with the fewest in flight; None before most of them ended."""
        count = len(self._latencies)
        if count < _WINDOW_LEAST or count % _WINDOW_LEAST:
            return None
        order = sorted(range(count), key=self._in_flight.__getitem__)
        quarter = sorted(self._latencies[place] for place in order[: max(_WINDOW_LEAST, count // 4)])
        median = quarter[len(quarter) // 2]
        return median if now - self._began >= 2 * median or count >= _WINDOW_MOST else None


class _Signal:
    """The latency of one kind of call: a window of the last ones, and a baseline, quick to fall and slow to rise."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._window = _Window()
        self._dip: _Window | None = None
        self._dip_level = 0
        self.baseline = math.inf
        """What the latency is where nothing queues."""
        self.suspect = False
        """Whether the last window was slow."""

    def dip(self, level: int) -> None:
        """From now on calls that begin with `level` or fewer in flight show the unloaded latency."""
        self._dip, self._dip_level = _Window(), level

    @property
    def dipping(self) -> bool:
        return self._dip is not None

    def add(self, latency_s: float, in_flight: int, now: float, size: int) -> _Reading | None:
        """What the window says, where this call was its last."""
        if self._dip is not None and in_flight <= self._dip_level:
            self._dip.add(latency_s, in_flight, now)
            if self._dip.full(_WINDOW_LEAST, now, math.inf):
                self.baseline = self._dip.median()[0]
                self._dip = None
        self._window.add(latency_s, in_flight, now)
        if self.baseline == math.inf:
            first = self._window.least_loaded(now)
            if first is not None:
                self.baseline = first
                self._window = _Window()
            return None
        if not self._window.full(size, now, self.baseline):
            return None
        window, self._window = self._window, _Window()
        median, error = window.median()
        at_most = median * math.exp(2 * error)
        if at_most < self.baseline:
            self.baseline = at_most
        elif median > self.baseline:
            self.baseline += _RISE * (median - self.baseline)
        ratio = median / self.baseline
        slow = ratio > self._tolerance and math.log(ratio) > _SURE * error
        return _Reading(median, ratio, window.in_flight, slow)


class Adaptive:
    """The limit found from latency: generous at first, cut where calls queue at the backend, grown while it is used.

    Where it holds a limit it lowers it now and then for a moment (a dip), to see the unloaded latency again: else the
    baseline would follow the queue that the limit tolerates, and the limit the baseline.
    """

    def __init__(self, settings: AdaptiveSettings) -> None:
        self.settings = settings
        self._limit = float(min(settings.max, max(settings.min, settings.initial)))
        self._signals: dict[str, _Signal] = {}
        self._episode: tuple[float, float] | None = None
        """Where cutting began: calls in flight, and the median latency."""
        self._dropped_at = -math.inf
        self._found = False
        """Whether latency has set the limit."""
        self._windows = 0
        """Since the last dip began."""
        self._dipping: _Signal | None = None
        self._level = 0
        self._before = 0.0
        """Level and former baseline of the dip."""

    @property
    def limit(self) -> int:
        return int(self._limit) if self._dipping is None else min(int(self._limit), self._level)

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "") -> None:
        if not 0 < latency_s < math.inf:
            return
        if kind not in self._signals and len(self._signals) >= KINDS_MAX:
            kind = _OTHERS
        signal = self._signals.get(kind)
        if signal is None:
            signal = self._signals[kind] = _Signal(self.settings.tolerance)
        reading = signal.add(latency_s, in_flight, now, min(_WINDOW_ENOUGH, max(_WINDOW_LEAST, self.limit)))
        if reading is not None:
            self._windows += 1
            self._decide(signal, reading)
        if self._dipping is not None and (not self._dipping.dipping or self._windows > _DIP_MOST):
            # Where the dip has found much less, the queue was deep, and the next dip finds still less.
            deep = self._dipping.baseline < 0.9 * self._before
            self._windows = _DIP_EVERY - _DIP_SOON if deep else 0
            self._dipping = None

    def dropped(self, in_flight: int, now: float) -> None:
        if now - self._dropped_at >= _DROP_EVERY_S:
            self._dropped_at = now
            self._set(_DROP * max(min(in_flight, self._limit), self._limit / 2))

    def _decide(self, signal: _Signal, reading: _Reading) -> None:
        if reading.slow:
            if signal.suspect or reading.ratio > 2 * self.settings.tolerance:
                self._cut(signal, reading)
            signal.suspect = True
            return
        signal.suspect = False
        self._episode = None
        if self._dipping is not None or reading.in_flight < _USED * self._limit:
            return
        if self._found and self._windows >= _DIP_EVERY and self._limit > self.settings.min:
            self._windows = 0
            self._level = max(self.settings.min, int(self._limit * _DIP_TO))
            self._dipping, self._before = signal, signal.baseline
            signal.dip(self._level)
        elif reading.ratio < (1 + self.settings.tolerance) / 2:
            self._set(self._limit + max(1.0, math.sqrt(self._limit)))
            self._found = self._found and self._limit < self.settings.max

    def _cut(self, signal: _Signal, reading: _Reading) -> None:
        if self._episode is None:
            self._episode = (reading.in_flight, reading.median)
        began_at, began_with = self._episode
        if reading.in_flight <= max(self.settings.min, began_at / 2) and reading.median > 0.75 * began_with:
            # Half the calls and still as slow: it is not our queue. The backend has become slower for good.
            signal.baseline = reading.median
            self._episode = None
            self._set(max(self._limit, began_at))
            return
        share = max(_CUT_MOST, self.settings.tolerance / reading.ratio)
        self._set(min(self._limit, reading.in_flight * share))
        if not self._found:
            self._found = True
            self._windows = _DIP_EVERY - _DIP_SOON

    def _set(self, limit: float) -> None:
        self._limit = min(float(self.settings.max), max(float(self.settings.min), limit))
