"""From a name to targets in order: weights, patterns, health, no target twice."""

import random
from collections import Counter

import pytest

from headgate.core.errors import NotFound
from headgate.core.target import Route, RouteTable, Target
from headgate.pipeline.route import choose
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call


def ask(table: RouteTable, model: str = "m", failing: frozenset[str] = frozenset(), seed: int = 1) -> list[Target]:
    call = make_call(VirtualClock(), model)
    return choose(call, table, random.Random(seed), lambda name: name not in failing)


def routes(*targets: Target, fallbacks: tuple[Target, ...] = ()) -> RouteTable:
    return RouteTable(1, {"m": Route("m", targets, fallbacks)})


def test_first_places_follow_the_weights() -> None:
    table = routes(Target("a", "x", 7), Target("b", "x", 2), Target("c", "x", 1))
    rng, first = random.Random(5), Counter[str]()
    call = make_call(VirtualClock())
    for _ in range(20_000):
        first[choose(call, table, rng, lambda _: True)[0].backend] += 1
    shares = {name: count / 20_000 for name, count in first.items()}
    assert shares == pytest.approx({"a": 0.7, "b": 0.2, "c": 0.1}, abs=0.015)


def test_second_places_follow_the_weights_among_the_rest() -> None:
    table = routes(Target("a", "x", 2), Target("b", "x", 3), Target("c", "x", 1))
    rng, second = random.Random(5), Counter[str]()
    call = make_call(VirtualClock())
    for _ in range(20_000):
        order = choose(call, table, rng, lambda _: True)
        if order[0].backend == "a":
            second[order[1].backend] += 1
    assert second["b"] / second.total() == pytest.approx(0.75, abs=0.03)


def test_every_target_is_tried_in_the_end_and_fallbacks_after_them_in_order() -> None:
    table = routes(Target("a", "x"), Target("b", "x"), fallbacks=(Target("c", "x"), Target("d", "x")))
    order = [target.backend for target in ask(table)]
    assert sorted(order[:2]) == ["a", "b"]
    assert order[2:] == ["c", "d"]


def test_weight_zero_takes_a_target_out() -> None:
    assert [t.backend for t in ask(routes(Target("a", "x", 0), Target("b", "x")))] == ["b"]


def test_no_target_is_tried_twice() -> None:
    table = routes(Target("a", "x"), fallbacks=(Target("a", "x"), Target("a", "y"), Target("a", "*")))
    assert [(t.backend, t.model) for t in ask(table)] == [("a", "x"), ("a", "y"), ("a", "m")]


def test_failing_backends_come_last_and_are_still_tried() -> None:
    table = routes(Target("a", "x"), fallbacks=(Target("b", "x"), Target("c", "x")))
    assert [t.backend for t in ask(table, failing=frozenset("ab"))] == ["c", "a", "b"]
    assert [t.backend for t in ask(table, failing=frozenset("abc"))] == ["a", "b", "c"]


def test_an_exact_name_wins_over_a_pattern_and_a_pattern_over_the_catch_all() -> None:
    table = RouteTable(
        1,
        {"gpt-4": Route("gpt-4", (Target("exact", "x"),))},
        (Route("gpt-*", (Target("first", "*"),)), Route("*-4o", (Target("second", "*"),))),
        Route("*", (Target("all", "*"),)),
    )
    found = {name: ask(table, name)[0] for name in ("gpt-4", "gpt-4o", "o-4o", "llama")}
    assert {name: target.backend for name, target in found.items()} == {
        "gpt-4": "exact", "gpt-4o": "first", "o-4o": "second", "llama": "all",
    }  # fmt: skip
    assert (found["gpt-4o"].model, found["llama"].model) == ("gpt-4o", "llama")


def test_an_unknown_model_says_where_the_known_ones_are() -> None:
    with pytest.raises(NotFound, match="GET /v1/models") as refused:
        ask(routes(Target("a", "x")), "z" * 256)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert len(refused.value.message) < 400
