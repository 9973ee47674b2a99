"""The words between the Redis driver and its scripts: keys, a plan as the scripts read it, and their verdict."""

import math
from collections.abc import Sequence

import msgspec

from headgate.core.errors import Overloaded
from headgate.core.limiter import AccountState, Plan, RateState, Verdict
from headgate.core.policy import Algorithm
from headgate.storage.limits.numbers import Numbers, check_plan, overflow

_KINDS: dict[Algorithm, tuple[str, tuple[str, ...]]] = {
    "token_bucket": ("level", ("r",)),
    "leaky_bucket": ("level", ("r",)),
    "sliding_log": ("log", ("r", "rs")),
    "sliding_counter": ("windows", ("r", "r0", "r1")),
}
"""The meter that counts it, and the kinds of its keys."""
_HUGE = 1e300
"""Stands for infinity, which Lua's packing does not know."""
_ALLOWED, _RATE, _PLACE, _ACCOUNT, _MISSING, _OVERFLOW, _GIVEN_UP = range(7)


class Keys:
    """Every kind has a prefix of its own, so that no name can be another's."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def given_up(self, attempt: str) -> str:
        return f"{self._prefix}x:{attempt}"

    def rate(self, numbers: Numbers) -> list[str]:
        return [f"{self._prefix}{kind}:{numbers.key}" for kind in _KINDS[numbers.algorithm][1]]

    def place(self, key: str) -> str:
        return f"{self._prefix}p:{key}"

    def account(self, key: str) -> tuple[str, str]:
        return f"{self._prefix}a:{key}", f"{self._prefix}ae:{key}"


class Prepared:
    """A plan's keys and numbers as the scripts take them: all of it to reserve, and what must be told of the end."""

    def __init__(self, plan: Plan, keys: Keys) -> None:
        check_plan(plan)
        rates = list(map(Numbers, plan.rates))
        token_rates = [numbers for numbers in rates if numbers.tokens]
        places = [{"limit": place.limit} for place in plan.places]
        accounts = [
            {"limit": a.limit, "tokens": a.tokens, "hard": a.hard, "keep": milliseconds(a.keep_s)}
            for a in plan.accounts
        ]
        rest = [keys.place(place.key) for place in plan.places]
        rest += [key for account in plan.accounts for key in keys.account(account.key)]
        self.keys = [key for numbers in rates for key in keys.rate(numbers)] + rest
        self.end_keys = [key for numbers in token_rates for key in keys.rate(numbers)] + rest
        self.count, self.end_count = 1 + len(self.keys), 1 + len(self.end_keys)
        self.plan = _pack(rates, places, accounts)
        self.end_plan = _pack(token_rates, places, accounts)
        self.settles = bool(self.end_keys)


def _pack(rates: Sequence[Numbers], places: Sequence[object], accounts: Sequence[object]) -> bytes:
    return msgspec.msgpack.encode({"rates": list(map(_meter, rates)), "places": places, "accounts": accounts})


def _meter(numbers: Numbers) -> dict[str, object]:
    return {
        "kind": _KINDS[numbers.algorithm][0],
        "tokens": numbers.tokens,
        "full": numbers.full,
        "most": min(numbers.most, _HUGE),
        "one": numbers.one,
        "leak": numbers.leak,
        "slack": numbers.slack,
        "window": max(1, round(numbers.window * 1_000_000)),
        "paced": numbers.paced,
    }


def milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)


def verdict(plan: Plan, flat: Sequence[float]) -> Verdict:
    """Puts the script's numbers into the words of the port."""
    code, index, retry_after, delay_s = int(flat[0]), int(flat[1]), float(flat[2]), float(flat[3])
    if code == _OVERFLOW:
        raise overflow(plan.accounts[index].key)
    if code == _GIVEN_UP:
        raise Overloaded(
            "This claim was given up when the limit store did not answer; try again.",
            code="limits_unavailable",
            retry_after=1.0,
        )
    middle = 4 + 2 * len(plan.rates)
    unknown = tuple(i for i, spent in enumerate(flat[middle::2]) if spent < 0)
    return Verdict(
        allowed=code == _ALLOWED,
        rates=tuple([RateState(float(flat[i]), float(flat[i + 1])) for i in range(4, middle, 2)]),
        accounts=()
        if unknown
        else tuple([AccountState(int(flat[i]), int(flat[i + 1])) for i in range(middle, len(flat), 2)]),
        refused_rate=index if code == _RATE else None,
        refused_place=index if code == _PLACE else None,
        refused_account=index if code == _ACCOUNT else None,
        retry_after=retry_after,
        delay_s=delay_s,
        missing=unknown if code == _MISSING else (),
    )
