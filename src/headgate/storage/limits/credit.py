"""What one replica took ahead from one shared token bucket, and how much it should have. No waiting, no clock.

Over any window all replicas together accept at most what the bucket lets through plus the credit outstanding at its
start. Credit, and what is on its way, stay within a cap, and the caps of all replicas together are at most `share` of
one window's amount. A part of that is split evenly, a part by how much of the limit each replica got lately.

Why the second part is bounded: in any time t a bucket gives out at most `burst + rate * t`. So what all replicas get
per second, averaged with weights that fade with time T, is at most `rate + burst / T`; each one's gain over that is
its share. Credit is planned with a share as it was up to 1.5 `hold_s` ago, which is at most exp(1.5 hold_s / T) times
what it is now. T is at least 6 `hold_s`: the sum is at most 0.5 + 0.35 * exp(0.25), less than 1.
"""

import math
from collections import deque
from typing import Annotated

from msgspec import Meta, Struct

from headgate.core.errors import Overloaded
from headgate.core.limiter import Cost, Limiter, Plan, Rate, RateState

EVEN = 0.5
BY_GAIN = 0.35
FADE_HOLDS = 6


class LeaseSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How much credit is taken ahead, and for how long."""

    share: Annotated[float, Meta(gt=0, le=0.5)] = 0.05
    """Of one window's amount, for all replicas together: the bound of the error."""
    ahead_s: Annotated[float, Meta(gt=0)] = 0.25
    """Credit is taken for so long a time of this replica's own demand; at half of it more is taken."""
    hold_s: Annotated[float, Meta(gt=0)] = 0.5
    """Credit not used for so long goes back."""
    demand_s: Annotated[float, Meta(gt=0)] = 0.5
    """Demand is averaged over about this time."""
    calls_min: Annotated[int, Meta(ge=1)] = 2
    """A rate whose cap holds fewer calls than this is not leased: its calls ask the store."""
    waiting_max: Annotated[int, Meta(ge=1)] = 10_000
    """Calls that may wait for credit of one rate; more are refused."""


class Lot(Struct, frozen=True):
    """Credit from one claim at the store."""

    claim: str
    """Empty where a part of it was returned: a claim ends once."""
    plan: Plan
    granted: int
    at: float


class Credit:
    """The credit for one rate. Times are monotonic seconds; amounts are calls or tokens."""

    def __init__(self, rate: Rate, settings: LeaseSettings, now: float) -> None:
        self._settings = settings
        self.level = 0.0
        """What may be given out; below zero after calls that used more than they reserved."""
        self.low = 0.0
        """Below it more is taken."""
        self.cap = 0.0
        self.asked = 0.0
        """By calls, since `plan_ahead` last looked."""
        self.waiting = 0.0
        """What calls that wait for credit need."""
        self.waiters = 0
        self.empty_until = -math.inf
        """Until then the store is known to have none; before it nobody asks."""
        self.trouble: Overloaded | None = None
        """Why the store gave no answer last."""
        self.remaining = rate.burst
        """In the bucket, when the store last answered."""
        self._answered_at = now
        self._lots: deque[Lot] = deque()
        self._granted = 0
        """By all lots still known."""
        self._demand = 0.0
        self._gain = 0.0
        """What the store grants, per second."""
        self._looked_at = self._gained_at = now
        self.follow(rate)

    def follow(self, rate: Rate) -> None:
        """The rate as it is now; what was taken under an earlier one stays."""
        self.rate = rate
        self.per_s = rate.amount / rate.window_s
        self._fade_s = max(rate.window_s, FADE_HOLDS * self._settings.hold_s)
        # As tokens, so that one claim can take many calls' worth.
        taken = Rate(
            key=rate.key, amount=rate.amount, window_s=rate.window_s, tokens=True, algorithm=rate.algorithm,
            burst=rate.burst, on_loss=rate.on_loss,
        )  # fmt: skip
        self.plan = Plan(rates=(taken,))

    @property
    def pause_s(self) -> float:
        """Between two attempts at a bucket that is empty: short enough that it never fills meanwhile."""
        return min(max(0.001, 0.01 * self.rate.window_s), 0.25, 0.25 * self.rate.burst / self.per_s)

    @property
    def idle(self) -> bool:
        return not self.level and not self._lots

    def plan_ahead(self, replicas: int, now: float) -> int:
        """Looks at demand and shares again; what should be taken now, at most a full bucket."""
        settings, rate = self._settings, self.rate
        elapsed = max(0.0, now - self._looked_at)
        self._demand = self._demand * math.exp(-elapsed / settings.demand_s) + self.asked / settings.demand_s
        self.asked, self._looked_at = 0.0, now
        gain = self._gain_at(now) / (self.per_s + rate.burst / self._fade_s)
        self.cap = min(settings.share * rate.amount * (EVEN / max(1, replicas) + BY_GAIN * gain), 0.25 * rate.burst)
        target = min(self.cap, self._demand * settings.ahead_s)
        self.low = target / 2
        wanted = max(0.0, target - max(0.0, self.level)) + max(0.0, -self.level) + self.waiting
        return min(math.ceil(wanted - 1e-6), int(rate.burst))

    def granted(self, claim: str, amount: int, remaining: float, now: float) -> None:
        """The store gave `amount` under `claim`."""
        self.level += amount
        self._lots.append(Lot(claim, self.plan, amount, now))
        self._granted += amount
        self._gain = self._gain_at(now) + amount / self._fade_s
        self._gained_at = now
        self.answered(remaining, now)

    def answered(self, remaining: float, now: float) -> None:
        self.remaining, self._answered_at, self.trouble = remaining, now, None

    def _gain_at(self, now: float) -> float:
        return self._gain * math.exp(-max(0.0, now - self._gained_at) / self._fade_s)

    def wait_s(self, need: float, now: float) -> float:
        """Until a call that needs so much could pass, if nobody takes more."""
        filled = self.remaining + self.per_s * (now - self._answered_at)
        return max(0.001, self.empty_until - now, (need - max(0.0, self.level) - filled) / self.per_s)

    def state(self) -> RateState:
        """An estimate: what others took since the store's last answer is not in it."""
        remaining = min(self.rate.burst, max(0.0, self.remaining + self.level))
        return RateState(remaining, (self.rate.burst - remaining) / self.per_s)

    def give_back(self, store: Limiter, now: float) -> None:
        """Ends the lots that are used up, and returns what nobody waits for and is above the cap, or too old."""
        while self._lots and self._granted - self._lots[0].granted >= self.level:
            self._end(store, 0)
        young = sum(lot.granted for lot in self._lots if now - lot.at < self._settings.hold_s)
        if (surplus := math.floor(self.level - min(self.cap + self.waiting, young))) > 0:
            self.return_up_to(store, surplus)

    def return_up_to(self, store: Limiter, surplus: float) -> None:
        """Returns so much, oldest first; what no claim stands for is void."""
        left = int(surplus)
        while left and self._lots:
            left -= self._end(store, left)
        self.level = max(min(0.0, self.level), self.level - surplus)

    def _end(self, store: Limiter, back: int) -> int:
        """Ends the oldest lot, up to so much of it returned. What is left of it is a lot without a claim."""
        lot = self._lots.popleft()
        back = min(back, lot.granted)
        if lot.claim:
            store.settle(lot.claim, lot.plan, Cost(lot.granted), Cost(lot.granted - back))
        if 0 < back < lot.granted:
            self._lots.appendleft(Lot("", lot.plan, lot.granted - back, lot.at))
            self._granted -= back
        else:
            self._granted -= lot.granted
        return back
