"""How many calls a backend takes at once: a fixed number, or found from its latency.

`Adaptive` follows two ideas: TCP Vegas (Brakmo, O'Malley, Peterson, SIGCOMM 1994), that latency above that of an
unloaded path is queueing at the other end, and the gradient limits of Netflix's concurrency-limits, that the limit
moves with the ratio of the two. What is its own: a window of calls is judged by its mean with the mean's own
uncertainty, calls of different kinds have baselines of their own, and a cut is computed from the calls in flight when
the window's calls began, so it acts however far above the limit starts, and repeating it does no harm.

The signal, `latency_signal`, must not depend on how long an answer is. For a stream it is the time to the first piece
(kind `STREAM`); for a whole body the time per output token; for what has no output tokens (embeddings) the whole time.
"""

import math
from typing import Annotated, Protocol

from msgspec import Meta, Struct

from headgate.pipeline.latency_signal import STREAM, WINDOW_LEAST, LatencySignal, Reading

KINDS_MAX = 16
"""Kinds with a baseline of their own; further ones share one."""
_OTHERS = "others"
_WINDOW_ENOUGH = 64
_USED = 0.9
"""A limit grows only while at least this much of it is used."""
_CUT_MOST = 0.25
"""What one window's verdict leaves of the calls in flight, at least."""
_HELPED = 0.75
"""A cut has helped where latency has come down to this much of what it was."""
_STREAK_MOST = 4
_DROP = 0.8
_DROP_EVERY_S, _DROP_SHARE = 1.0, 0.05
"""Drops within this time of each other are one event, and fewer than this share of the calls are none."""
_DIP, _DIP_S = 0.4, 4.0
"""By which share a dip lowers the limit; less where calls are so long that it takes longer to get there (seconds)."""
_DIP_EVERY, _DIP_SOON, _DIP_MOST = 20, 4, 6
"""A dip every so many windows (or sooner), for so many windows at most."""

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class AdaptiveSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The bounds of a limit that is found from latency."""

    initial: _Count = 1_000
    min: _Count = 8
    max: _Count = 1_000
    tolerance: Annotated[float, Meta(gt=1, le=10)] = 1.25
    """Latency above this many times the unloaded one is queueing."""


class Capacity(Protocol):
    """How many calls at once, and what it learns from."""

    @property
    def limit(self) -> int: ...

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "", hold_s: float = 0.0) -> None:
        """A call answered; `in_flight` counts the calls there were when it began, itself included.

        `hold_s` is how long calls last on average, where that is known and the latency is not the same.
        """

    def dropped(self, in_flight: int, now: float) -> None:
        """A call timed out, or the backend refused it as too much."""


class Fixed:
    """Always `n`."""

    def __init__(self, n: int) -> None:
        self.limit = n

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "", hold_s: float = 0.0) -> None:
        """Nothing to learn."""

    def dropped(self, in_flight: int, now: float) -> None:
        """Nothing to learn."""


class Adaptive:
    """The limit found from latency: generous at first, cut where calls queue at the backend, grown while it is used.

    Where it holds a limit it lowers it now and then for a moment (a dip), to see the unloaded latency again: else the
    baseline would follow the queue that the limit tolerates, and the limit the baseline.
    """

    def __init__(self, settings: AdaptiveSettings) -> None:
        self.settings = settings
        self._limit = float(min(settings.max, max(settings.min, settings.initial)))
        self._signals: dict[str, LatencySignal] = {}
        self._episode: tuple[float, float, float] | None = None
        """Where cutting last helped: calls in flight and the latency; and the limit before the first cut."""
        self._streak = 0
        """Windows in a row after which the limit has grown: each step is larger than the last."""
        self._dropped_at = -math.inf
        self._drops = self._answers = 0
        """Since then."""
        self._found = False
        """Whether latency has set the limit."""
        self._windows = 0
        """Since the last dip began."""
        self._dipping: LatencySignal | None = None
        self._level = 0
        self._before = 0.0
        """Level and former baseline of the dip."""

    @property
    def limit(self) -> int:
        return int(self._limit) if self._dipping is None else min(int(self._limit), self._level)

    def sample(self, latency_s: float, in_flight: int, now: float, kind: str = "", hold_s: float = 0.0) -> None:
        if not 0 < latency_s < math.inf:
            return
        self._answers += 1
        if kind not in self._signals and len(self._signals) >= KINDS_MAX:
            kind = _OTHERS
        signal = self._signals.get(kind)
        if signal is None:
            signal = self._signals[kind] = LatencySignal(self.settings.tolerance, kind == STREAM)
        if in_flight > self.limit:
            return  # it began before the last cut: of such calls those that end now are the slow ones
        size = min(_WINDOW_ENOUGH, max(WINDOW_LEAST, self.limit))
        reading = signal.add(latency_s, in_flight, now, size, hold_s)
        if reading is not None:
            self._windows += 1
            self._decide(signal, reading, hold_s)
        if self._dipping is not None and (not self._dipping.dipping or self._windows > _DIP_MOST):
            # Where the dip has found much less, the queue was deep, and the next dip finds still less.
            deep = self._dipping.baseline < 0.9 * self._before
            self._windows = _DIP_EVERY - _DIP_SOON if deep else 0
            self._dipping = None

    def dropped(self, in_flight: int, now: float) -> None:
        if in_flight <= self.settings.min:
            return  # fewer there never are: it was refused for something else, such as a provider's limit per minute
        self._drops += 1
        if now - self._dropped_at < _DROP_EVERY_S:
            return
        if self._drops >= _DROP_SHARE * (self._drops + self._answers):
            self._set(_DROP * max(min(in_flight, self._limit), self._limit / 2))
        self._dropped_at = now
        self._drops = self._answers = 0

    def _decide(self, signal: LatencySignal, reading: Reading, hold_s: float) -> None:
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
            share = min(_DIP, _DIP_S / hold_s) if hold_s else _DIP
            self._level = max(self.settings.min, min(int(self._limit * (1 - share)), int(self._limit) - 1))
            self._dipping, self._before = signal, signal.baseline
            signal.dip(self._level)
        elif reading.ratio < (1 + self.settings.tolerance) / 2:
            self._streak = min(self._streak + 1, _STREAK_MOST)
            self._set(self._limit + self._streak * max(1.0, math.sqrt(self._limit)))
            self._found = self._found and self._limit < self.settings.max

    def _cut(self, signal: LatencySignal, reading: Reading) -> None:
        self._streak = 0
        if self._episode is None or reading.latency < _HELPED * self._episode[1]:
            before = self._limit if self._episode is None else self._episode[2]
            self._episode = (reading.in_flight, reading.latency, before)
        began_at, _, before = self._episode
        if reading.in_flight <= max(self.settings.min, began_at / 2):
            # Half the calls and still as slow: it is not our queue. The backend has become slower for good.
            signal.baseline = reading.latency
            self._episode = None
            self._set(before)
            return
        self._set(min(self._limit, reading.in_flight * max(_CUT_MOST, 1 - reading.excess)))
        if not self._found:
            self._found = True
            self._windows = _DIP_EVERY - _DIP_SOON

    def _set(self, limit: float) -> None:
        self._limit = min(float(self.settings.max), max(float(self.settings.min), limit))
