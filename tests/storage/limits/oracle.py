"""Rates in plain exact arithmetic: what was taken when, and how much of it still counts. Times are microseconds."""

from fractions import Fraction

from headgate.core.limiter import Rate


class Oracle:
    """One rate. Nothing here is stored the way the drivers store it, but for the bucket's level, which is its law."""

    def __init__(self) -> None:
        self.taken: list[list[int]] = []
        """Time, cost and claim of every take."""
        self.level, self.at = Fraction(0), 0
        self.leaks: Rate | None = None
        """The rate that the level was last set with."""

    def may_be_forgotten(self, rate: Rate, now: int) -> bool:
        """A bucket that has run empty at its own rate may be forgotten, though it had not at the one asked with now."""
        if self.leaks is None or rate.algorithm not in {"token_bucket", "leaky_bucket"}:
            return False
        return self.used(rate, now) > 0 == self.used(self.leaks, now)

    def used(self, rate: Rate, now: int) -> Fraction:
        """How much of the limit is taken at `now`."""
        window = int(rate.window_s * 1_000_000)
        if rate.algorithm == "sliding_log":
            return Fraction(sum(cost for at, cost, _ in self.taken if at + window > now))
        if rate.algorithm == "sliding_counter":
            current = sum(cost for at, cost, _ in self.taken if at // window == now // window)
            previous = sum(cost for at, cost, _ in self.taken if at // window == now // window - 1)
            return current + previous * (1 - Fraction(now % window, window))
        return max(Fraction(0), self.level - (now - self.at) * self._per_us(rate))

    def _per_us(self, rate: Rate) -> Fraction:
        return Fraction(rate.amount) / int(rate.window_s * 1_000_000)

    def whole(self, rate: Rate) -> Fraction:
        if rate.algorithm == "leaky_bucket":
            return Fraction(rate.max_delay_s) * 1_000_000 * self._per_us(rate) + 1
        return Fraction(rate.burst if rate.algorithm == "token_bucket" else rate.amount)

    def cost(self, rate: Rate, cost: int) -> int:
        return cost if rate.algorithm == "leaky_bucket" else min(cost, int(self.whole(rate)))

    def over(self, rate: Rate, now: int, cost: int) -> Fraction:
        """By how much a cost is too large now; a paced call needs room for a first unit only."""
        cost = self.cost(rate, cost)
        asked = min(cost, 1) if rate.algorithm == "leaky_bucket" else cost
        return self.used(rate, now) + asked - self.whole(rate) if cost > 0 else Fraction(-1)

    def delay_s(self, rate: Rate, now: int) -> Fraction:
        return self.used(rate, now) / self._per_us(rate) / 1_000_000

    def take(self, rate: Rate, now: int, cost: int, claim: int) -> None:
        cost = self.cost(rate, cost)
        if cost > 0:  # from here on it leaks at this rate
            self.level, self.at = self.used(rate, now) + cost, now
            self.leaks = rate
        if rate.algorithm in {"sliding_log", "sliding_counter"}:
            self.level = Fraction(0)
            window = int(rate.window_s * 1_000_000)
            self.taken = [entry for entry in self.taken if entry[0] // window >= now // window - 1]
            self.taken.append([now, cost, claim])

    def end(self, rate: Rate, now: int, claim: int, held: int, used: int) -> None:
        held, used = self.cost(rate, held), self.cost(rate, used)
        if rate.algorithm in {"token_bucket", "leaky_bucket"} and held != used:
            self.level, self.at = max(Fraction(0), self.used(rate, now) + used - held), now
            self.leaks = rate
        for entry in self.taken:
            if entry[2] == claim:
                entry[1] = used
