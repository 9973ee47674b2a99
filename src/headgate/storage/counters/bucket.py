"""The arithmetic of a token bucket, kept as its leak: how much is used, and when that was true.

This is the "continuous-state leaky bucket" form of the generic cell rate algorithm (ITU-T I.371, annex A; equal to
its "virtual scheduling" form, the arrival time most limiters store). A level keeps its precision next to Unix times
of 1e9 seconds; an arrival time of a bucket that fills with 300,000 tokens a second does not.
The Redis driver does the same sums in Lua.
"""

import math
from collections.abc import Sequence

from headgate.core.counters import BucketState, Decision, Take

SLACK = 1e-9
"""Part of the capacity by which a cost may exceed what is left, so that rounding never refuses whoever waited exactly
`retry_after`. It is never more than a billionth above the limit, since what is taken is counted in full."""


def leaked(level: float, elapsed: float, refill_per_s: float) -> float:
    """What is still used after `elapsed` seconds."""
    return max(0.0, level - max(0.0, elapsed) * refill_per_s)


def wait(take: Take, level: float) -> float:
    """Seconds until the take could pass: 0 if now, infinite if never."""
    over = level + take.cost - take.capacity
    if take.cost <= 0 or over <= take.capacity * SLACK:
        return 0.0
    if take.cost > take.capacity * (1 + SLACK):
        return math.inf
    return over / take.refill_per_s


def decide(takes: Sequence[Take], levels: Sequence[float], force: bool) -> tuple[Decision, list[float]]:
    """The decision, and each bucket's new level."""
    waits = () if force else tuple(map(wait, takes, levels))
    if any(waits):
        return decision(takes, levels, waits), list(levels)
    after = [max(0.0, level + take.cost) for take, level in zip(takes, levels, strict=True)]
    return decision(takes, after, waits), after


def decision(takes: Sequence[Take], levels: Sequence[float], waits: Sequence[float]) -> Decision:
    """Puts levels and waits into the words of the port."""
    states = tuple(map(_state, takes, levels))
    if not any(waits):
        return Decision(True, states)
    longest = max(waits)
    return Decision(False, states, waits.index(longest), longest)


def _state(take: Take, level: float) -> BucketState:
    return BucketState(take.capacity - level, level / take.refill_per_s)
