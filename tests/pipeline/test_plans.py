"""From policies to plans: the right counters for the right calls, made once, the lower level never wider."""

from msgspec import structs

from headgate.core.call import Call
from headgate.core.policy import Budget, Governed, Limit, Policy
from headgate.core.principal import KeyLimits, Principal
from headgate.pipeline.admission import AdmissionSettings
from headgate.pipeline.plans import Plans, Terms
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call

CLOCK = VirtualClock()
DEFAULTS = AdmissionSettings().key_policy()
NOW = 1_790_000_000.0  # 2026-09-21T14:13:20Z


def principal(*governed: Governed, limits: KeyLimits | None = None) -> Principal:
    return Principal("k", "acme", frozenset({"inference"}), limits=limits or KeyLimits(), policies=governed)


def terms(who: Principal, call: Call | None = None, now: float = NOW, plans: Plans | None = None) -> Terms:
    return (plans or Plans(lambda: DEFAULTS)).find(who, call or make_call(CLOCK), now)


def test_a_key_without_limits_gets_the_defaults_and_its_own_replace_them() -> None:
    plain = terms(principal())
    assert {rate.amount for rate in plain.plan.rates} == {60_000, 20_000_000}
    own = terms(principal(limits=KeyLimits(requests_per_minute=5, concurrency=2)))
    assert {rate.amount for rate in own.plan.rates} == {5, 20_000_000}
    assert own.plan.places[0].limit == 2


def test_a_key_that_is_limited_twice_keeps_to_the_tighter_limit() -> None:
    policy = Policy(limits=(Limit("requests", 10), Limit("concurrency", 3)))
    found = terms(
        principal(Governed("key", "k", policy), limits=KeyLimits(requests_per_minute=100, concurrency=50)),
    )
    assert {rate.amount for rate in found.plan.rates if not rate.tokens} == {10}
    assert {place.limit for place in found.plan.places} == {3}


def test_a_limit_for_some_calls_of_a_key_takes_no_default_off_the_others() -> None:
    for narrow in (Limit("requests", 5, model="gpt-*"), Limit("requests", 5, each="session")):
        found = terms(principal(Governed("key", "k", Policy(limits=(narrow,)))), make_call(CLOCK, "mine"))
        assert 60_000 in {rate.amount for rate in found.plan.rates}
    wide = terms(principal(Governed("key", "k", Policy(limits=(Limit("requests", 90_000),)))))
    assert {rate.amount for rate in wide.plan.rates if not rate.tokens} == {90_000}


def test_under_a_leased_limit_the_defaults_cost_no_round_trip_and_a_keys_own_limits_count() -> None:
    policy = Policy(limits=(Limit("requests", 5_000_000, "second", leased=True),))
    plain = terms(principal(Governed("project", "acme", policy))).plan
    assert [rate.leased for rate in plain.rates] == [True] * 3
    assert not plain.places
    own = terms(principal(Governed("project", "acme", policy), limits=KeyLimits(concurrency=2))).plan
    assert [place.limit for place in own.places] == [2]


def test_limits_of_all_levels_apply_together() -> None:
    found = terms(
        principal(
            Governed("organization", "default", Policy(limits=(Limit("requests", 1000, each="address"),))),
            Governed("project", "acme", Policy(limits=(Limit("tokens", 5000, "day"),))),
            Governed("user", "u", Policy(limits=(Limit("concurrency", 3),))),
        ),
        structs.replace(make_call(CLOCK), client="10.0.0.9"),
    )
    keys = {rate.key for rate in found.plan.rates}
    assert "token_bucket:organization:default:requests/minute/address/*:10.0.0.9" in keys
    assert "token_bucket:project:acme:tokens/day/all/*:" in keys
    assert {place.limit for place in found.plan.places} == {3, 1000}


def test_a_limit_of_some_models_leaves_the_others_alone() -> None:
    who = principal(Governed("project", "acme", Policy(limits=(Limit("requests", 7, model="gpt-*"),))))
    plans = Plans(lambda: DEFAULTS)
    assert 7 in {rate.amount for rate in terms(who, make_call(CLOCK, "gpt-5"), plans=plans).plan.rates}
    assert 7 not in {rate.amount for rate in terms(who, make_call(CLOCK, "mine"), plans=plans).plan.rates}


def test_a_plan_is_made_once_for_calls_of_one_kind_and_anew_for_a_new_snapshot() -> None:
    plans, who = Plans(lambda: DEFAULTS), principal()
    assert terms(who, plans=plans) is terms(who, plans=plans)
    assert terms(principal(), plans=plans) is not terms(who, plans=plans)


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    plans = Plans(lambda: DEFAULTS)
    who = principal(Governed("project", "acme", Policy(limits=(Limit("requests", 7, each="address"),))))
    for number in range(1000):
        terms(who, structs.replace(make_call(CLOCK), client=f"10.0.{number >> 8}.{number & 255}"), plans=plans)
    assert len(plans._known["k"][2]._variants) <= 256


def test_budgets_have_an_account_for_each_period() -> None:
    policy = Policy(budgets=(Budget(1, per="day"), Budget(2, per="month"), Budget(3, per="total")))
    who, plans = principal(Governed("project", "acme", policy)), Plans(lambda: DEFAULTS)
    first = terms(who, plans=plans)
    assert [account.key.rpartition(":")[2] for account in first.plan.accounts] == ["2026-09-21", "2026-09", "all"]
    next_day = terms(who, now=NOW + 86_400, plans=plans)
    assert next_day.plan.accounts[0].key.endswith(":2026-09-22")
    assert next_day.plan.accounts[1].key == first.plan.accounts[1].key
    assert [charge.ends for charge in first.charges] == [1_790_035_200.0, 1_790_812_800.0, None]


def test_tenants_of_any_alphabet_have_counters_of_their_own() -> None:
    names = ["日本", "日本 ", "a:b", "a", "b:a", "'; DROP TABLE keys; --"]
    found = {
        terms(Principal("k", name, frozenset(), policies=(
            Governed("project", name, Policy(budgets=(Budget(1, per="total"),))),
        ))).plan.accounts[0].key
        for name in names
    }  # fmt: skip
    assert len(found) == len(names)


def test_the_class_to_wait_in_is_the_lowest_that_any_level_allows() -> None:
    found = terms(principal(
        Governed("organization", "default", Policy(priority="normal")),
        Governed("project", "acme", Policy(weight=3.0)),
    ))  # fmt: skip
    assert (found.priority, found.weight) == ("normal", 3.0)
