"""A lower level can only narrow: whatever policies are set, a child's rights are a part of its parent's."""

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from headgate.core.errors import BadCall
from headgate.core.policy import Budget, Governed, Level, Limit, Policy, Velocity
from headgate.core.principal import Principal
from headgate.tenancy import edits
from headgate.tenancy.keyring import KeySpec
from headgate.tenancy.policies import Owner, check
from headgate.tenancy.records import CLI
from tests.tenancy.office import Office, run

LEVELS: tuple[Level, ...] = ("organization", "project", "user", "key")
MODELS = ("gpt-4o", "gpt-4o-mini", "claude-3", "org/llama", "demo", "", "*")
patterns = st.sampled_from(["*", "gpt-*", "gpt-4o", "?????8*", "org/*", "claude-3", "[gd]*", "nothing"])
limits = st.builds(
    Limit,
    unit=st.sampled_from(["requests", "tokens", "concurrency"]),
    amount=st.integers(1, 10**12),
    per=st.sampled_from(["second", "minute", "hour", "day"]),
    each=st.sampled_from(["", "user", "key"]),
    model=patterns,
)
budgets = st.builds(
    Budget, amount=st.floats(0, 9_000_000), per=st.sampled_from(["request", "day", "month", "total"]), model=patterns
)
policies = st.builds(
    Policy,
    models=st.none() | st.lists(patterns, max_size=3).map(tuple),
    denied_models=st.lists(patterns, max_size=2).map(tuple),
    limits=st.lists(limits, max_size=3, unique_by=lambda limit: limit.name).map(tuple),
    budgets=st.lists(budgets, max_size=2, unique_by=lambda budget: budget.name).map(tuple),
    priority=st.sampled_from(["interactive", "normal", "batch"]),
)
weighty = st.builds(structs.replace, policies, weight=st.floats(0.1, 100))
chains = st.tuples(policies, weighty, policies, policies)


def allowed(rules: tuple[Governed, ...]) -> set[str]:
    return {model for model in MODELS if all(rule.policy.allows(model) for rule in rules)}


def bounds(rules: tuple[Governed, ...]) -> set[tuple[str, str, float]]:
    """Everything that a call must fit into."""
    found: set[tuple[str, str, float]] = set()
    for rule in rules:
        found |= {(rule.owner, limit.name, float(limit.amount)) for limit in rule.policy.limits}
        found |= {(rule.owner, budget.name, budget.amount) for budget in rule.policy.budgets}
    return found


def assert_narrower(child: Principal, parent: Principal) -> None:
    assert allowed(child.policies) <= allowed(parent.policies)
    assert bounds(child.policies) >= bounds(parent.policies)


def narrowing(path: Path, examples: int) -> None:
    """One database for all examples: each sets four policies and reads them off keys of four levels."""

    async def main(office: Office, other: Office) -> None:
        tenancy = office.tenancy
        user = await tenancy.users.create("ada@example.com", "reader", CLI)
        keys = [
            await office.keys.create(KeySpec(tenant="elsewhere")),
            await office.keys.create(KeySpec(tenant="acme")),
            await office.keys.create(KeySpec(tenant="acme", user_id=user.id)),
            await office.keys.create(KeySpec(tenant="acme", user_id=user.id)),
        ]
        owners = [Owner("organization"), Owner("project", "acme"), Owner("user", user.id)]
        owners.append(Owner("key", keys[3].record.id))
        loop = asyncio.get_running_loop()

        async def one(chain: tuple[Policy, ...]) -> None:
            for owner, policy in zip(owners, chain, strict=True):
                await tenancy.policies.put(owner, policy, CLI)
            await other.keys.refresh()
            ladder = [other.principal(key.key) for key in keys]
            for parent, child in itertools.pairwise(ladder):
                assert_narrower(child, parent)
            kept = {rule.level: rule.policy for rule in ladder[3].policies}
            wanted = dict(zip(LEVELS, chain, strict=True))
            assert kept == {level: policy for level, policy in wanted.items() if policy != Policy()}

        @settings(max_examples=examples)
        @given(chain=chains)
        def every(chain: tuple[Policy, ...]) -> None:
            asyncio.run_coroutine_threadsafe(one(chain), loop).result(60)

        await asyncio.to_thread(every)

    run(f"sqlite:///{path}/state.db", main)


def test_a_childs_rights_are_a_part_of_its_parents(tmp_path: Path) -> None:
    narrowing(tmp_path, 40)


@pytest.mark.prove
def test_a_childs_rights_are_a_part_of_its_parents_in_two_thousand_policies(tmp_path: Path) -> None:
    narrowing(tmp_path, 500)  # four policies each


def never_wider(chain: tuple[Policy, ...]) -> None:
    rules = tuple(Governed(level, "x", policy) for level, policy in zip(LEVELS, chain, strict=True))
    for depth in range(len(rules)):
        assert allowed(rules[: depth + 1]) <= allowed(rules[:depth])
        assert bounds(rules[: depth + 1]) >= bounds(rules[:depth])


@settings(max_examples=100)
@given(chain=chains)
def test_adding_a_level_never_widens(chain: tuple[Policy, ...]) -> None:
    never_wider(chain)


@pytest.mark.prove
@settings(max_examples=2_000)
@given(chain=chains)
def test_adding_a_level_never_widens_in_two_thousand_chains(chain: tuple[Policy, ...]) -> None:
    never_wider(chain)


@given(policy=policies, cents=st.integers(1, 900_000_000), soft=st.integers(1, 900_000_000))
def test_spend_limit_and_alert_come_and_go_without_touching_each_other(policy: Policy, cents: int, soft: int) -> None:
    policy = edits.without_spend_alert(edits.without_spend_limit(policy))
    policy = edits.without_budget(policy, edits.MONTH)
    both = edits.with_spend_alert(edits.with_spend_limit(policy, cents), soft)
    assert both == edits.with_spend_limit(edits.with_spend_alert(policy, soft), cents)
    assert (edits.spend_limit(both), edits.spend_alert(both)) == (cents, soft)
    assert edits.spend_limit(edits.without_spend_limit(both)) is None
    assert edits.spend_alert(edits.without_spend_limit(both)) == soft
    assert edits.spend_limit(edits.without_spend_alert(both)) == cents
    assert edits.without_spend_alert(edits.without_spend_limit(both)) == policy
    check(both, "project")
    notice = edits.with_budget(policy, Budget(amount=5, at_limit="notify"))
    assert edits.without_spend_limit(notice) == notice


BAD: list[tuple[Policy, str]] = [
    (Policy(limits=(Limit(unit="requests", amount=0),)), "limits[0].amount"),
    (Policy(limits=(Limit(unit="tokens", amount=10**13),)), "limits[0].amount"),
    (Policy(limits=(Limit(unit="tokens", amount=5, model="a\x00"),)), "limits[0].model"),
    (Policy(budgets=(Budget(amount=float("nan")),)), "budgets[0].amount"),
    (Policy(budgets=(Budget(amount=float("inf")),)), "budgets[0].amount"),
    (Policy(budgets=(Budget(amount=5, raised_by=1.0),)), "budgets[0].raised_until"),
    (Policy(budgets=(Budget(amount=5, raised_until=float("nan")),)), "budgets[0].raised_until"),
    (Policy(budgets=(Budget(amount=5, raised_until=1e300),)), "budgets[0].raised_until"),
    (Policy(budgets=(Budget(amount=0.5, unit="tokens"),)), "budgets[0].amount"),
    (Policy(models=("",)), "models[0]"),
    (Policy(denied_models=("ok", "a\ud800")), "denied_models[1]"),
    (Policy(weight=-1.0), "weight"),
    (Policy(weight=5e-324), "weight"),
]


@pytest.mark.parametrize(("policy", "levels"), [
    (Policy(velocity=Velocity()), {"user", "key"}), (Policy(weight=2.0), {"organization", "user", "key"}),
])  # fmt: skip
def test_what_would_have_no_effect_at_a_level_is_refused_there(policy: Policy, levels: set[Level]) -> None:
    for level in LEVELS:
        if level not in levels:
            check(policy, level)
            continue
        with pytest.raises(BadCall, match="set it on the project"):
            check(policy, level)


@pytest.mark.parametrize(("policy", "field"), BAD)
def test_a_policy_made_in_code_is_checked_like_one_that_was_sent(policy: Policy, field: str) -> None:
    with pytest.raises(BadCall) as refused:
        check(policy, "project")
    assert refused.value.param == field
    with pytest.raises(BadCall) as nested:
        check(policy, "project", "policy.")
    assert nested.value.param == f"policy.{field}"


def test_a_refused_policy_changes_nothing(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        owner = Owner("project", "default")
        good = Policy(limits=(Limit(unit="requests", amount=5),))
        await office.tenancy.policies.put(owner, good, CLI)
        for policy, _field in BAD:
            with pytest.raises(BadCall):
                await office.tenancy.policies.put(owner, policy, CLI)
        with pytest.raises(BadCall) as refused:
            await office.keys.create(KeySpec(policy=BAD[0][0]))
        assert refused.value.param == "policy.limits[0].amount"
        assert await office.tenancy.policies.get(owner) == good

    run(sql_url, main)
