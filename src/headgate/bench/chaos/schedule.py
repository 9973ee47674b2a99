"""Which requests get a fault when they ask for none: rules with a share, a count or a time."""

import random
from dataclasses import dataclass, field

import msgspec

from headgate.bench.chaos.fault import Order
from headgate.bench.chaos.faults import parse

RULES = 64
"""Rules at once, at most."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule as `POST /chaos` takes it. Times are seconds since it was set."""

    fault: str
    share: float = 1.0
    """Of the requests that it looks at, 0 to 1."""
    seed: int = 0
    first: int | None = None
    """Only the first so many requests that it looks at."""
    from_s: float = 0.0
    to_s: float | None = None
    on: str = "calls"
    """calls, probes (models, health, metrics) or all."""


@dataclass(slots=True)
class _Running:
    rule: Rule
    order: Order
    since: float
    rng: random.Random = field(default_factory=random.Random)
    seen: int = 0


class Schedule:
    """The rules in force, in order: the first that strikes decides."""

    def __init__(self) -> None:
        self._running: list[_Running] = []

    @property
    def rules(self) -> list[Rule]:
        return [running.rule for running in self._running]

    def set(self, rules: list[Rule], now: float) -> None:
        """Replaces all rules; `now` is monotonic seconds. Raises `ValueError` that says what is wrong."""
        if len(rules) > RULES:
            raise ValueError(f"at most {RULES} rules")
        made = []
        for rule in rules:
            if not 0 <= rule.share <= 1:
                raise ValueError(f"share: {rule.share} is not between 0 and 1")
            if rule.on not in {"calls", "probes", "all"}:
                raise ValueError(f"on: {rule.on!r} is not one of calls, probes, all")
            made.append(_Running(rule, parse(rule.fault), now, random.Random(rule.seed)))
        self._running = made

    def strike(self, now: float, *, probe: bool = False) -> Order | None:
        """The order for the next request. Each rule draws once per request that it looks at, struck or not."""
        found = None
        for running in self._running:
            rule = running.rule
            age = now - running.since
            if rule.on != "all" and (rule.on == "probes") != probe:
                continue
            if age < rule.from_s or (rule.to_s is not None and age >= rule.to_s):
                continue
            running.seen += 1
            drawn = running.rng.random() < rule.share
            if drawn and found is None and (rule.first is None or running.seen <= rule.first):
                found = running.order
        return found
