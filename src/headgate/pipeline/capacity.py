"""How many calls a backend takes at once: a fixed number, or found from its latency.

`Adaptive` follows two ideas: TCP Vegas (Brakmo, O'Malley, Peterson, SIGCOMM 1994), that latency above that of an
unloaded path is queueing at the other end, and the gradient limits of Netflix's concurrency-limits, that the limit
moves with the ratio of the two. What is its own: a window of calls is judged by its mean with the mean's own
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
_LASTING = 2.0
_SURE = 3.0
"""Standard errors by which a mean must be off before it counts."""
_USED = 0.9
"""A limit grows only while at least this much of it is used."""
_CUT_MOST = 0.25
"""What one window's verdict leaves of the calls in flight, at least."""
_HELPED = 0.75
"""A cut has helped where latency has come down to this much of what it was."""
_STREAK_MOST = 4
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

    latency: float
    ratio: float
    in_flight: float
    """On average, and at most, when the window's calls began."""
    peak: int
    slow: bool
    """Above the tolerance, and surely."""


class _Window:
    """The latencies of one kind of call, and the calls in flight when each began.

    It is full when it has enough calls and has lasted for some latencies: of calls that begin together the first to
    end are the quick ones.
    """

    __slots__ = ("_began", "_in_flight", "_logs", "_squares", "count", "peak")

    def __init__(self) -> None:
        self.count = 0
        self._began = 0.0
        self._logs = self._squares = 0.0
        self._in_flight = 0
        self.peak = 0

    def add(self, latency_s: float, in_flight: int, now: float) -> None:
        if not self.count:
            self._began = now
        self.count += 1
        log = math.log(latency_s)
        self._logs += log
        self._squares += log * log
        self._in_flight += in_flight
        self.peak = max(self.peak, in_flight)

    def full(self, size: int, now: float, latency_s: float) -> bool:
        if self.count < size:
            return False
        return now - self._began >= _LASTING * latency_s or self.count >= _WINDOW_MOST

    @property
    def in_flight(self) -> float:
        return self._in_flight / self.count

    def latency(self) -> tuple[float, float]:
        """The geometric mean (latencies are skewed) and the standard error of its logarithm."""
        mean = self._logs / self.count
        variance = max(0.0, self._squares / self.count - mean * mean)
        return math.exp(mean), math.sqrt(variance / self.count)


class _Learning:
    """The first calls of a kind: what they took that began with the fewest in flight is the first baseline."""

    __slots__ = ("_began", "_calls")

    def __init__(self) -> None:
        self._calls: list[tuple[int, float]] = []
        self._began = 0.0

    def add(self, latency_s: float, in_flight: int, now: float) -> float | None:
        """The baseline, once most calls that began at first have ended."""
        if not self._calls:
            self._began = now
        self._calls.append((in_flight, math.log(latency_s)))
        count = len(self._calls)
        if count % _WINDOW_LEAST:
            return None
        few = sorted(in_flight for in_flight, _ in self._calls)[max(_WINDOW_LEAST, count // 4) - 1]
        quarter = [log for in_flight, log in self._calls if in_flight <= few]
        latency = math.exp(sum(quarter) / len(quarter))
        return latency if now - self._began >= 3 * latency or count >= _WINDOW_MOST else None


class _Signal:
    """The latency of one kind of call: a window of the last ones, and a baseline, quick to fall and slow to rise."""

    def __init__(self, tolerance: float) -> None:
        self._tolerance = tolerance
        self._learning: _Learning | None = _Learning()
        self._windows = 1
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
        if self._learning is not None:
            first = self._learning.add(latency_s, in_flight, now)
            if first is not None:
                self.baseline = first
                self._learning = None
            return None
        if self._dip is not None and in_flight <= self._dip_level:
            self._dip.add(latency_s, in_flight, now)
            if self._dip.full(_WINDOW_LEAST, now, self.baseline):
                self.baseline = self._dip.latency()[0]
                self._dip = None
        self._window.add(latency_s, in_flight, now)
        if not self._window.full(size, now, self.baseline):
            return None
        window, self._window = self._window, _Window()
        latency, error = window.latency()
        at_most = latency * math.exp(2 * error)
        if at_most < self.baseline:
            self.baseline = at_most
        ratio = latency / self.baseline
        slow = ratio > self._tolerance and math.log(ratio) > _SURE * error
        if ratio > 1:
            # What was learned from few calls is soon mended by more.
            self._windows += 1
            self.baseline += (_RISE if slow else max(_RISE, 1 / self._windows)) * (latency - self.baseline)
        return _Reading(latency, ratio, window.in_flight, window.peak, slow)


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
        """Where cutting last helped: calls in flight, and the latency."""
        self._streak = 0
        """Windows in a row after which the limit has grown: each step is larger than the last."""
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
        if in_flight > self.limit:
            return  # it began before the last cut: of such calls those that end now are the slow ones
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
        if reading.ratio >= (1 + self.settings.tolerance) / 2:
            self._streak = 0
        if self._dipping is not None or reading.peak < _USED * int(self._limit):
            return
        if self._found and self._windows >= _DIP_EVERY and self._limit > self.settings.min:
            self._windows = 0
            self._level = max(self.settings.min, int(self._limit * _DIP_TO))
            self._dipping, self._before = signal, signal.baseline
            signal.dip(self._level)
        elif reading.ratio < (1 + self.settings.tolerance) / 2:
            self._streak = min(self._streak + 1, _STREAK_MOST)
            self._set(self._limit + self._streak * max(1.0, math.sqrt(self._limit)))
            self._found = self._found and self._limit < self.settings.max

    def _cut(self, signal: _Signal, reading: _Reading) -> None:
        self._streak = 0
        if self._episode is None or reading.latency < _HELPED * self._episode[1]:
            self._episode = (reading.in_flight, reading.latency)
        began_at, _ = self._episode
        if reading.in_flight <= max(self.settings.min, began_at / 2):
            # Half the calls and still as slow: it is not our queue. The backend has become slower for good.
            signal.baseline = reading.latency
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
