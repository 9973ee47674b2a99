"""What a rate remembers, one class for each way of counting. No method waits or reads a clock.

A call's cost is at most the whole limit (`Numbers.most`), so that a large one may pass when all is free.
"""

from collections import deque
from math import floor
from typing import Protocol

from headgate.core.limiter import RateState
from headgate.storage.limits.numbers import Numbers

_ROUNDING_S = 1e-6
"""Waited beyond the moment when something leaves a window, so that the sum of the two times surely is past it."""


class Meter(Protocol):
    """What was taken of one rate. `wait` comes first: it brings the meter up to `now`, as the others expect."""

    end: float
    """When it is as good as new."""

    def wait(self, numbers: Numbers, now: float, cost: float) -> float:
        """Seconds until `cost` could be taken, if nobody else takes any; 0 for now."""
        ...

    def take(self, numbers: Numbers, now: float, claim: str, cost: float) -> float:
        """Takes it, and says for how many seconds the call must wait to keep the pace."""
        ...

    def state(self, numbers: Numbers, now: float) -> RateState: ...

    def true_up(self, numbers: Numbers, now: float, claim: str, took: tuple[float, float], known: bool) -> None:
        """Makes what `claim` took the second of `took` instead of the first. Needs no `wait`.

        `known` false: the claim may have ended before, so only what itself knows of the claim is changed.
        """
        ...


class Level:
    """Token bucket and leaky bucket, kept as the leak: how much is used, and when that was true.

    This is the "continuous-state leaky bucket" form of the generic cell rate algorithm (ITU-T I.371, annex A; equal to
    its "virtual scheduling" form, the arrival time that most limiters store). A level keeps its precision next to Unix
    times of 1e9 seconds; an arrival time of a bucket that fills with 300,000 tokens a second does not.
    """

    __slots__ = ("at", "end", "kept", "level")

    def __init__(self, now: float) -> None:
        self.kept = 0.0
        """The level at the time `at`."""
        self.at = self.end = now
        self.level = 0.0
        """What is left of it at the last time asked."""

    def _leak(self, numbers: Numbers, now: float) -> float:
        level = self.kept - (now - self.at) * numbers.leak if now > self.at else self.kept
        self.level = max(0.0, level)
        return self.level

    def _keep(self, numbers: Numbers, now: float, level: float) -> None:
        self.kept = self.level = level
        self.at = now
        self.end = now + level / numbers.leak

    def wait(self, numbers: Numbers, now: float, cost: float) -> float:
        level = self._leak(numbers, now)
        over = level + (1.0 if numbers.paced else cost) - numbers.full
        return over / numbers.leak if cost > 0 and over > numbers.slack else 0.0

    def take(self, numbers: Numbers, now: float, claim: str, cost: float) -> float:
        if cost <= 0:
            return 0.0
        behind = self.level
        self._keep(numbers, now, behind + cost)
        return behind / numbers.leak if numbers.paced else 0.0

    def state(self, numbers: Numbers, now: float) -> RateState:
        return RateState(numbers.full - self.level, self.level / numbers.leak)

    def true_up(self, numbers: Numbers, now: float, claim: str, took: tuple[float, float], known: bool) -> None:
        held, used = took
        if known and held != used:
            self._keep(numbers, now, max(0.0, self._leak(numbers, now) + used - held))


class Log:
    """Sliding log: every take with its time. What is `window_s` old has left the window."""

    __slots__ = ("empty", "end", "entries", "open", "total")

    def __init__(self, now: float) -> None:
        self.entries: deque[list[float]] = deque()
        """Time and cost, the oldest first."""
        self.open: dict[str, list[float]] = {}
        """Of claims that may still be trued up."""
        self.total = 0.0
        self.empty = 0
        """Entries given back whole since the last clean-up."""
        self.end = now

    def _prune(self, numbers: Numbers, now: float) -> None:
        entries = self.entries
        while entries and entries[0][0] + numbers.window <= now:
            self.total -= entries.popleft()[1]
        if not entries:
            self.total = 0.0
            self.empty = 0
            self.open.clear()
        elif len(self.open) > 2 * len(entries) + 64:  # claims that nobody settled
            first = entries[0][0]
            self.open = {claim: entry for claim, entry in self.open.items() if entry[0] >= first}

    def wait(self, numbers: Numbers, now: float, cost: float) -> float:
        self._prune(numbers, now)
        over = self.total + cost - numbers.full
        if cost <= 0 or over <= numbers.slack:
            return 0.0
        for at, taken in self.entries:
            over -= taken
            if over <= numbers.slack:
                return at + numbers.window - now + _ROUNDING_S
        return numbers.window  # not reached: a cost is at most the whole limit

    def take(self, numbers: Numbers, now: float, claim: str, cost: float) -> float:
        if cost > 0:
            entry = [now, cost]
            self.entries.append(entry)
            self.total += cost
            if numbers.tokens:
                self.open[claim] = entry
            self.end = now + numbers.window
        return 0.0

    def state(self, numbers: Numbers, now: float) -> RateState:
        reset_s = self.entries[-1][0] + numbers.window - now if self.entries else 0.0
        return RateState(numbers.full - self.total, reset_s)

    def true_up(self, numbers: Numbers, now: float, claim: str, took: tuple[float, float], known: bool) -> None:
        held, used = took
        self._prune(numbers, now)
        if held <= 0:
            if known and self.total < numbers.full:  # a full window needs no more entries
                self.take(numbers, now, claim, used)
                self.open.pop(claim, None)
        elif (entry := self.open.pop(claim, None)) is not None and entry[0] + numbers.window > now:
            self.total += used - entry[1]
            entry[1] = used
            self.empty += used <= 0
            while self.entries and self.entries[-1][1] <= 0:  # the last one says when all is free again
                self.entries.pop()
                self.empty -= 1
            if self.empty > len(self.entries) // 2 + 64:
                self.entries = deque(entry for entry in self.entries if entry[1] > 0)
                self.empty = 0


class Windows:
    """Sliding counter: fixed windows, of which the last one counts by the part of it that is still within `window_s`.

    The approximation of "How we built rate limiting capable of scaling to millions of domains" (Cloudflare, 2017).
    """

    __slots__ = ("current", "end", "open", "previous", "start", "window")

    def __init__(self, now: float) -> None:
        self.start = -1.0
        """The current window's number since the clock's zero."""
        self.window = 0.0
        """Its length."""
        self.current = self.previous = 0.0
        self.open: tuple[dict[str, float], dict[str, float]] = ({}, {})
        """What claims that may still be trued up took, in the current window and in the previous one."""
        self.end = now

    def _roll(self, numbers: Numbers, now: float) -> float:
        """The part of the current window that is over."""
        start = float(floor(now / numbers.window))
        if numbers.window != self.window:  # all that counted counts on, as if it were taken now
            self.current, self.previous, self.open = self.current + self.previous, 0.0, ({}, {})
            self.start, self.window = start, numbers.window
        elif start > self.start:
            if start == self.start + 1:
                self.current, self.previous, self.open = 0.0, self.current, ({}, self.open[0])
            else:
                self.current, self.previous, self.open = 0.0, 0.0, ({}, {})
            self.start = start
        return self._over(numbers, now)

    def _over(self, numbers: Numbers, now: float) -> float:
        return max(0.0, now / numbers.window - self.start)

    def wait(self, numbers: Numbers, now: float, cost: float) -> float:
        over = self._roll(numbers, now)
        free = numbers.full - cost
        if cost <= 0 or self.previous * (1.0 - over) + self.current - free <= numbers.slack:
            return 0.0
        if self.current <= free:  # in this window, when enough of the previous one has left
            return (1.0 - (free - self.current) / self.previous - over) * numbers.window + _ROUNDING_S
        return (2.0 - free / self.current - over) * numbers.window + _ROUNDING_S

    def take(self, numbers: Numbers, now: float, claim: str, cost: float) -> float:
        if cost > 0:
            self.current += cost
            if numbers.tokens:
                self.open[0][claim] = cost
            self.end = (self.start + 2.0) * numbers.window
        return 0.0

    def state(self, numbers: Numbers, now: float) -> RateState:
        over = self._over(numbers, now)
        used = self.previous * (1.0 - over) + self.current
        windows = 2.0 if self.current else 1.0 if self.previous else over
        return RateState(numbers.full - used, (windows - over) * numbers.window)

    def true_up(self, numbers: Numbers, now: float, claim: str, took: tuple[float, float], known: bool) -> None:
        held, used = took
        self._roll(numbers, now)
        if held <= 0:
            if known:
                self.take(numbers, now, claim, used)
                self.open[0].pop(claim, None)
        elif (taken := self.open[0].pop(claim, None)) is not None:
            self.current = max(0.0, self.current + used - taken)
        elif (taken := self.open[1].pop(claim, None)) is not None:
            self.previous = max(0.0, self.previous + used - taken)
