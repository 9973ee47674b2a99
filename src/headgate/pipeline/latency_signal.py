"""What the latency of one kind of call says about a backend: windows of calls against a baseline."""

import math

from msgspec import Struct

STREAM = "stream"
"""The kind whose latency is only the beginning of a call: queueing adds to it, and the rest of the call stays."""
WINDOW_LEAST = 12
_WINDOW_MOST = 1_000
_LASTING = 2.0
_SURE = 3.0
"""Standard errors by which a mean must be off before it counts."""
_RISE = 0.01
"""How far a window above the baseline lifts it."""


class Reading(Struct, frozen=True):
    """What one window says."""

    latency: float
    ratio: float
    in_flight: float
    """On average, and at most, when the window's calls began."""
    peak: int
    slow: bool
    """Above the tolerance, and surely."""
    excess: float
    """The share of a call's time that lies above the tolerance."""


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

    def full(self, size: int, now: float, baseline: float, lasts_s: float) -> bool:
        """`lasts_s` is the time of a call where it is not the latency; in both it is that of an idle backend."""
        if self.count < size:
            return False
        span = lasts_s * min(1.0, baseline / self.latency()[0]) if lasts_s else baseline
        return now - self._began >= _LASTING * span or self.count >= _WINDOW_MOST

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

    def add(self, latency_s: float, in_flight: int, now: float, lasts_s: float) -> float | None:
        """The baseline, once most calls that began at first have ended."""
        if not self._calls:
            self._began = now
        self._calls.append((in_flight, math.log(latency_s)))
        count = len(self._calls)
        if count % WINDOW_LEAST:
            return None
        few = sorted(in_flight for in_flight, _ in self._calls)[max(WINDOW_LEAST, count // 4) - 1]
        quarter = [log for in_flight, log in self._calls if in_flight <= few]
        latency = math.exp(sum(quarter) / len(quarter))
        return latency if now - self._began >= 3 * (lasts_s or latency) or count >= _WINDOW_MOST else None


class LatencySignal:
    """The latency of one kind of call: a window of the last ones, and a baseline, quick to fall and slow to rise."""

    def __init__(self, tolerance: float, begins: bool) -> None:
        self._tolerance = tolerance
        self._begins = begins
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

    def add(self, latency_s: float, in_flight: int, now: float, size: int, hold_s: float) -> Reading | None:
        """What the window says, where this call was its last."""
        lasts_s = 0.0 if self._begins else hold_s
        if self._learning is not None:
            first = self._learning.add(latency_s, in_flight, now, lasts_s)
            if first is not None:
                self.baseline = first
                self._learning = None
            return None
        if self._dip is not None and in_flight <= self._dip_level:
            self._dip.add(latency_s, in_flight, now)
            if self._dip.full(WINDOW_LEAST, now, self.baseline, lasts_s):
                self.baseline = self._dip.latency()[0]
                self._dip = None
        self._window.add(latency_s, in_flight, now)
        if not self._window.full(size, now, self.baseline, lasts_s):
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
        # What of a call's whole time is queueing: so many fewer calls in flight would do without (Little's law).
        whole = max(latency, hold_s) if self._begins else latency
        excess = max(0.0, latency - latency / ratio * self._tolerance) / whole
        return Reading(latency, ratio, window.in_flight, window.peak, slow, excess)
