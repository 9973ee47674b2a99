"""Who calls in the walks: keys of users and projects, with budgets on all four levels and limits of all four kinds."""

from typing import Any

from headgate.core.policy import Budget, Governed, Level, Limit, Policy
from headgate.core.principal import KeyTable, Principal, hash_key

SECRET = b"server secret of the tests"
KEYS = {"k0": ("t0", "u0"), "k1": ("t0", "u1"), "k2": ("t1", "u1"), "k3": ("t1", None), "k4": ("t1", None)}
"""The project and the user of each."""
CHANGED = ("organization:default", "project:t0", "project:t1", "user:u0", "user:u1", "key:k2")
"""Whose budgets in dollars are raised and lowered."""


def policies(factors: dict[str, float]) -> dict[str, Policy]:
    """By owner; `factors` are what their budgets in dollars were raised or lowered by."""

    def usd(owner: str, amount: float, **more: Any) -> Budget:
        return Budget(amount * factors.get(owner, 1.0), **more)

    return {
        "organization:default": Policy(
            limits=(Limit("requests", 40, algorithm="sliding_counter"),),
            budgets=(usd("organization:default", 0.04, per="day"), Budget(10_000, "tokens", "day", each="user")),
        ),
        "project:t0": Policy(
            limits=(Limit("tokens", 3_000, algorithm="token_bucket"),),
            budgets=(usd("project:t0", 0.014, per="day"), usd("project:t0", 0.15, per="total", model="m")),
        ),
        "project:t1": Policy(
            limits=(Limit("requests", 12, algorithm="sliding_log"), Limit("concurrency", 6)),
            budgets=(usd("project:t1", 0.15, per="month"), usd("project:t1", 0.01, per="day", each="key")),
        ),
        "user:u0": Policy(budgets=(usd("user:u0", 0.01, per="day"),)),
        "user:u1": Policy(budgets=(usd("user:u1", 0.5, per="total"), Budget(0.001, per="day", at_limit="notify"))),
        "key:k0": Policy(
            limits=(Limit("requests", 15, algorithm="leaky_bucket", max_delay_s=5), Limit("concurrency", 3)),
            budgets=(Budget(40_000, "tokens", "total"),),
        ),
        "key:k2": Policy(budgets=(usd("key:k2", 0.3, per="total"),)),
    }


def key_table(factors: dict[str, float]) -> KeyTable:
    told, found = policies(factors), {}
    for key, (tenant, user) in KEYS.items():
        owners: list[tuple[Level, str | None]] = [
            ("organization", "default"), ("project", tenant), ("user", user), ("key", key),
        ]  # fmt: skip
        governed = tuple(
            Governed(level, id_, told[f"{level}:{id_}"])
            for level, id_ in owners
            if id_ is not None and f"{level}:{id_}" in told
        )
        found[hash_key(SECRET, key)] = Principal(key, tenant, frozenset({"inference"}), user_id=user, policies=governed)
    return KeyTable(1, found)
