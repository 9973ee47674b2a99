"""From a name to targets in order: patterns, fallbacks, no target twice, none that is switched off."""

import pytest

from headgate.core.errors import NotFound, Overloaded
from headgate.core.switches import Off
from headgate.core.target import Route, RouteTable, Target
from headgate.pipeline.route import choose
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call


def ask(table: RouteTable, model: str = "m", off: frozenset[str] = frozenset()) -> list[Target]:
    return list(choose(make_call(VirtualClock(), model), table, switched(off)).targets)


def switched(off: frozenset[str]) -> Off:
    return lambda name, at: name in off or at in off


def routes(*targets: Target, fallbacks: tuple[Target, ...] = ()) -> RouteTable:
    return RouteTable(1, {"m": Route("m", targets, fallbacks)})


def test_the_routes_own_targets_come_first_and_fallbacks_after_them_in_order() -> None:
    table = routes(Target("a", "x"), Target("b", "x"), fallbacks=(Target("c", "x"), Target("d", "x")))
    routed = choose(make_call(VirtualClock()), table)
    assert [target.backend for target in routed.targets] == ["a", "b", "c", "d"]
    assert routed.primary == 2


def test_weight_zero_takes_a_target_out() -> None:
    assert [t.backend for t in ask(routes(Target("a", "x", 0), Target("b", "x")))] == ["b"]


def test_no_target_is_tried_twice() -> None:
    table = routes(Target("a", "x"), fallbacks=(Target("a", "x"), Target("a", "y"), Target("a", "*")))
    assert [(t.backend, t.model) for t in ask(table)] == [("a", "x"), ("a", "y"), ("a", "m")]


def test_backends_that_are_switched_off_are_left_out_and_where_all_are_it_is_said() -> None:
    table = routes(Target("a", "x"), fallbacks=(Target("b", "x", replica="b-1"), Target("b", "x", replica="b-2")))
    assert [t.at for t in ask(table, off=frozenset("a"))] == ["b-1", "b-2"]
    assert [t.at for t in ask(table, off=frozenset({"b-1"}))] == ["a", "b-2"]
    assert choose(make_call(VirtualClock()), table, switched(frozenset("a"))).primary == 0
    with pytest.raises(Overloaded) as refused:
        ask(table, off=frozenset("ab"))
    assert refused.value.code == "switched_off"


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
