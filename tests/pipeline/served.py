"""A modelled backend in virtual time, for what finds its capacity: some servers, one queue before them."""

import heapq
import random
from collections import deque
from collections.abc import Callable

from headgate.pipeline.capacity import Adaptive


class Served:
    """`offered` callers want in at all times; as many are let in as the limit says. Seconds are virtual."""

    def __init__(self, limit: Adaptive, servers: int, service: Callable[[], float], offered: int = 100_000) -> None:
        self.limit = limit
        self.servers = servers
        self.service = service
        self.offered = offered
        self.now = 0.0
        self.samples = 0
        self.latencies: list[float] = []
        self.limits: list[int] = []
        self.kind = ""
        self._in_flight = 0
        self._busy = 0
        self._queue: deque[tuple[float, int]] = deque()
        self._ends: list[tuple[float, float, int]] = []

    def run(self, samples: int) -> None:
        """Until so many more calls have been answered. What `latencies` and `limits` hold is of this run only."""
        self.latencies.clear()
        self.limits.clear()
        for _ in range(samples):
            self._fill()
            self.now, began, in_flight = heapq.heappop(self._ends)
            self._busy -= 1
            self._in_flight -= 1
            self.limit.sample(self.now - began, in_flight, self.now, self.kind)
            self.latencies.append(self.now - began)
            self.limits.append(self.limit.limit)

    @property
    def latency(self) -> float:
        """The median of this run."""
        return sorted(self.latencies)[len(self.latencies) // 2]

    def _fill(self) -> None:
        while self._in_flight < min(self.limit.limit, self.offered):
            self._in_flight += 1
            self._queue.append((self.now, self._in_flight))
        while self._queue and self._busy < self.servers:
            self._busy += 1
            began, in_flight = self._queue.popleft()
            heapq.heappush(self._ends, (self.now + self.service(), began, in_flight))


def flat(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def spread(seconds: float, sigma: float, seed: int) -> Callable[[], float]:
    """Log-normal, with this median."""
    rng = random.Random(seed)
    return lambda: seconds * rng.lognormvariate(0.0, sigma)
