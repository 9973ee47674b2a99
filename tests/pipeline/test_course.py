"""Where a call goes after each kind of failure: a table, walked with a real registry of replicas under virtual time."""

import random
from typing import Any

import pytest

from headgate.backends.replicas import Replicas
from headgate.core.errors import BadCall, Bug, HeadgateError, Overloaded, Truncated, Upstream, UpstreamTimeout
from headgate.core.rules import Rules
from headgate.core.target import Routed, Target
from headgate.pipeline.course import Course, Step
from headgate.pipeline.retry_budget import RetrySettings
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call

OWN, SMALL, LONG = Target("own", "m"), Target("small", "s"), Target("long", "l")
LIMITED = Overloaded("busy", code="upstream_rate_limited", status=429)
AUTH = Upstream("ours", code="upstream_auth")
TOO_LONG = BadCall("long", code="context_length_exceeded")
REFUSED = BadCall("no", code="content_filter")


def course(*own: Target, fallbacks: tuple[Target, ...] = (), rules: Rules | None = None, **more: Any) -> Course:
    clock = VirtualClock()
    routed = Routed((*own, *fallbacks), len(own), rules or Rules(), more.pop("chains", {}))
    replicas = Replicas(clock, random.Random(1))
    names = {target.at for target in routed.targets} | {t.at for chain in routed.chains.values() for t in chain}
    replicas.use({name: name.partition("-")[0] for name in names})
    for name, why in more.pop("ill", {}).items():
        replicas.failing(name, why)
    for name in more.pop("limited", ()):
        leave = replicas.enter(name)
        assert leave is not None
        leave.ended(LIMITED)
    call = more.pop("call", None) or make_call(clock)
    return Course(call, routed, replicas, lambda targets: targets, RetrySettings(**more), random.Random(1))


def walk(way: Course, error: HeadgateError, remaining_s: float = 60.0, *, allowed: bool = True) -> list[Step]:
    """All attempts of a call whose every attempt fails so."""
    steps = [way.first()]
    while (step := way.after(steps[-1], error, remaining_s, lambda _: allowed)) is not None:
        steps.append(step)
        assert len(steps) < 50
    return steps


def told(steps: list[Step]) -> list[str]:
    return [f"{step.target.at} {step.reason}" for step in steps]


def replicas(count: int) -> tuple[Target, ...]:
    return tuple(Target("pool", "m", replica=f"pool-{number}") for number in range(1, count + 1))


TABLE: list[tuple[HeadgateError, list[str], list[str]]] = [
    # error, with one target alone, with a fallback
    (Upstream("500"), ["own first", "own retry", "own retry"], ["own first", "small fallback"]),
    (Truncated("cut"), ["own first", "own retry", "own retry"], ["own first", "small fallback"]),
    (LIMITED, ["own first", "own retry", "own retry"], ["own first", "small fallback"]),
    (UpstreamTimeout("slow"), ["own first"], ["own first", "small fallback"]),
    (AUTH, ["own first"], ["own first", "small fallback"]),
    (REFUSED, ["own first"], ["own first"]),
    (TOO_LONG, ["own first"], ["own first"]),
    (BadCall("yours"), ["own first"], ["own first"]),
    (Bug("ours"), ["own first"], ["own first"]),
    (UpstreamTimeout("over", code="deadline_exceeded"), ["own first"], ["own first"]),
    (Overloaded("full", code="queue_full"), ["own first"], ["own first", "small fallback"]),
]


@pytest.mark.parametrize(("error", "alone", "with_fallback"), TABLE, ids=lambda value: str(getattr(value, "code", "")))
def test_each_kind_of_failure_has_its_way(error: HeadgateError, alone: list[str], with_fallback: list[str]) -> None:
    assert told(walk(course(OWN), error)) == alone
    assert told(walk(course(OWN, fallbacks=(SMALL,)), error)) == with_fallback


def test_other_replicas_come_before_fallbacks_and_are_tried_at_once() -> None:
    steps = walk(course(*replicas(2), fallbacks=(SMALL,)), Upstream("500"))
    assert told(steps) == ["pool-1 first", "pool-2 retry", "small fallback"]
    assert [step.wait_s for step in steps] == [0, 0, 0]


def test_no_more_attempts_at_a_model_than_are_allowed_however_many_replicas_it_has() -> None:
    assert len(walk(course(*replicas(9)), Upstream("500"))) == 3
    assert len(walk(course(*replicas(9), attempts=5), Upstream("500"))) == 5
    assert len(walk(course(*replicas(9), attempts=1, fallbacks=(SMALL, LONG)), Upstream("500"))) == 3


def test_without_budget_nothing_is_tried_again_and_fallbacks_still_are() -> None:
    way = course(*replicas(3), fallbacks=(SMALL,))
    assert told(walk(way, Upstream("500"), allowed=False)) == ["pool-1 first", "small fallback"]


def test_a_short_retry_after_is_waited_for_before_another_model_and_a_long_one_is_not() -> None:
    short = Overloaded("busy", status=429, retry_after=0.5)
    steps = walk(course(OWN, fallbacks=(SMALL,)), short)
    assert told(steps) == ["own first", "own retry", "own retry", "small fallback"]
    assert all(0.5 <= step.wait_s <= 0.55 for step in steps[1:3])
    long = Overloaded("busy", status=429, retry_after=5.0)
    assert told(walk(course(OWN, fallbacks=(SMALL,)), long)) == ["own first", "small fallback"]
    assert told(walk(course(OWN), long)) == ["own first", "own retry", "own retry"]
    assert told(walk(course(OWN), Overloaded("busy", retry_after=86_400.0))) == ["own first"]


def test_an_overloaded_target_that_is_alone_is_waited_for_until_it_has_rested() -> None:
    steps = walk(course(OWN, limited=["own"], attempts=2), LIMITED)
    assert told(steps) == ["own first", "own retry"]
    assert 1.0 <= steps[1].wait_s <= 1.1, "before its rest is over nobody is let through to it"
    assert told(walk(course(OWN, limited=["own"]), LIMITED, remaining_s=0.9)) == ["own first"]
    assert told(walk(course(OWN, limited=["own"], retry_after_max_s=0.5), LIMITED)) == ["own first"]


def test_a_wait_that_the_deadline_does_not_allow_is_not_begun() -> None:
    assert told(walk(course(OWN), Overloaded("busy", retry_after=5.0), remaining_s=4.0)) == ["own first"]
    assert told(walk(course(OWN, backoff_s=2.0), Upstream("500"), remaining_s=0.5)) == ["own first"]


def test_backoff_doubles_is_jittered_and_has_an_end() -> None:
    steps = walk(course(OWN, attempts=8, backoff_s=1.0, backoff_max_s=4.0), Upstream("500"))
    waits = [step.wait_s for step in steps[1:]]
    for wait, most in zip(waits, [1, 2, 4, 4, 4, 4, 4], strict=True):
        assert most / 2 <= wait <= most
    assert len(set(waits)) == len(waits)


def test_a_chain_for_a_class_goes_before_the_fallbacks_and_before_what_the_rules_say() -> None:
    way = course(OWN, fallbacks=(SMALL,), chains={"context_length": (LONG,)})
    assert told(walk(way, TOO_LONG)) == ["own first", "long fallback"]
    assert told(walk(course(OWN, fallbacks=(SMALL,), chains={"context_length": (LONG,)}), Upstream("500"))) == [
        "own first",
        "small fallback",
    ]


def test_a_route_may_shop_a_refusal_around_or_stop_at_a_timeout() -> None:
    rules = Rules(on_error={"content_policy": "fallback", "timeout": "stop"})
    assert told(walk(course(OWN, fallbacks=(SMALL,), rules=rules), REFUSED)) == ["own first", "small fallback"]
    assert told(walk(course(OWN, fallbacks=(SMALL,), rules=rules), UpstreamTimeout("slow"))) == ["own first"]


def test_the_ill_are_passed_over_and_it_is_said() -> None:
    step = course(*replicas(3), ill={"pool-1": "down", "pool-2": "down"}).first()
    assert step.target.at == "pool-3"
    assert step.passed_over == "pool-1: failing: down; pool-2: failing: down"
    only = course(OWN, fallbacks=(SMALL,), ill={"own": "down"}).first()
    assert (only.target.at, only.reason, only.passed_over) == ("small", "fallback", "own: failing: down")


def test_where_all_are_ill_one_is_tried_anyway() -> None:
    step = course(OWN, fallbacks=(SMALL,), ill={"own": "down", "small": "down"}).first()
    assert (step.target.at, step.anyway) == ("own", True)
    assert not course(OWN).first().anyway


def test_what_passes_through_is_sent_again_only_where_it_never_left() -> None:
    call = make_call(VirtualClock())
    passing = type(call)(
        **{name: getattr(call, name) for name in call.__struct_fields__ if name != "operation"}, operation="passthrough"
    )
    assert told(walk(course(*replicas(2), call=passing), Upstream("500"))) == ["pool-1 first"]
    refused = Upstream("refused", code="upstream_unreachable")
    assert told(walk(course(*replicas(2), call=passing), refused))[:2] == ["pool-1 first", "pool-2 retry"]


def test_a_cut_stream_goes_on_at_another_replica_then_at_the_same_then_at_a_fallback() -> None:
    way = course(*replicas(2), fallbacks=(SMALL,), attempts=3)
    step: Step | None = way.first()
    found: list[str] = []
    while step is not None and len(found) < 9:
        step = way.onwards(step, "replay", lambda _: True)
        found += [] if step is None else [f"{step.target.at} {step.reason}"]
    assert found == ["pool-2 replay", "pool-2 replay", "small replay"]


def test_a_target_that_fell_silent_is_asked_again_after_the_fallbacks() -> None:
    way = course(OWN, fallbacks=(SMALL,))
    first = way.first()
    step = way.onwards(first, "replay", lambda _: True, silent=True)
    assert step is not None
    assert told([step]) == ["small replay"]
    alone = course(OWN).onwards(first, "replay", lambda _: True, silent=True)
    assert alone is not None
    assert told([alone]) == ["own replay"]


def test_a_way_that_a_target_does_not_know_leaves_it_for_the_next_way() -> None:
    way = course(*replicas(2), fallbacks=(SMALL,))
    first = way.first()
    assert way.onwards(first, "continue", lambda _: True, fits=lambda target: None) is None
    step = way.onwards(first, "continue", lambda _: True, fits=lambda target: target.at == "small" or None)
    assert step is not None
    assert step.target.at == "small"
    again = way.onwards(step, "replay", lambda _: True)
    assert again is not None
    assert again.target.at == "pool-2"
