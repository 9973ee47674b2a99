"""From settings and lists to routes, and what the welcome says about them."""

from headgate.app.config import RouteSettings
from headgate.app.routes import Pools, build_routes, on_replicas, visible_models
from headgate.app.rules import RuleSettings, TargetSettings
from headgate.app.welcome import Progress, welcome
from headgate.core.ports import ModelInfo
from headgate.core.target import RouteTable, Target


def table(*routes: RouteSettings, aliases: dict[str, dict[str, str]] | None = None, **listed: list[str]) -> RouteTable:
    models = {name: [ModelInfo(model, owned_by=name) for model in names] for name, names in listed.items()}
    return build_routes(3, routes, models, aliases or {}, RuleSettings(), Pools())


def to(*backends: str) -> tuple[TargetSettings, ...]:
    return tuple(TargetSettings(name) for name in backends)


def test_a_model_that_several_list_goes_to_the_first_with_the_others_behind() -> None:
    route = table(a=["m"], b=["m", "n"], c=["m"]).exact["m"]
    assert (route.targets, route.fallbacks) == ((Target("a", "m"),), (Target("b", "m"), Target("c", "m")))
    assert route.owned_by == "a"


def test_a_configured_route_wins_over_a_listed_model() -> None:
    route = table(RouteSettings("m", to("b")), a=["m"]).exact["m"]
    assert (route.targets, route.fallbacks) == ((Target("b", "*"),), ())


def test_patterns_and_the_catch_all_are_kept_apart_and_in_order() -> None:
    found = table(RouteSettings("gpt-*", to("a")), RouteSettings("*", to("b")), RouteSettings("x?", to("c")))
    assert [route.name for route in found.patterns] == ["gpt-*", "x?"]
    assert found.catch_all is not None
    assert found.exact == {}
    assert found.version == 3


def test_where_each_replica_has_its_own_models_a_target_goes_to_the_one_that_has_its() -> None:
    pools = Pools(places={("own", "m"): "own:m"})
    assert [target.at for target in on_replicas(Target("own", "m"), pools)] == ["own:m"]
    assert [target.at for target in on_replicas(Target("own", "*"), pools, "m")] == ["own:m"]
    assert [target.at for target in on_replicas(Target("own", "*"), pools, "m*")] == ["own"]
    assert [target.at for target in on_replicas(Target("own", "first"), pools)] == ["own"]


def test_an_alias_is_another_name_for_a_listed_or_an_unlisted_model() -> None:
    found = table(a=["big"], aliases={"a": {"small": "big", "hidden": "secret-model"}, "b": {}})
    assert found.exact["small"].targets == (Target("a", "big"),)
    assert found.exact["hidden"].targets == (Target("a", "secret-model"),)


def test_callers_are_shown_names_not_patterns() -> None:
    found = table(RouteSettings("gpt-*", to("a")), RouteSettings("z", to("a")), a=["m"])
    assert [model.id for model in visible_models(found)] == ["m", "z"]


def test_the_welcome_has_address_key_models_and_a_line_to_try() -> None:
    text = welcome("0.0.0.0", 4000, "hg-key", [f"m{n}" for n in range(12)], None, "m3")
    for words in (
        "http://127.0.0.1:4000/v1",
        "hg-key",
        "m0, m1",
        "and 4 more",
        '"model": "m3"',
        "curl http://127.0.0.1:4000/v1/chat",
    ):
        assert words in text
    assert "[::1]:80" in welcome("::1", 80, None, ["m"], None, "m")


def test_the_welcome_without_models_or_key_says_how_to_get_them() -> None:
    text = welcome("127.0.0.1", 1, None, [], "loading", None)
    assert "none yet" in text
    assert "headgate keys create" in text
    assert "not ready loading" in text
    assert "curl" not in text


def test_progress_moves_on_a_terminal_and_is_silent_elsewhere() -> None:
    for terminal in (True, False):
        written: list[str] = []
        progress = Progress(written.append, terminal)
        progress.step("loading")
        progress.step("loading")
        progress.done()
        assert len(written) == (3 if terminal else 0)
        assert "\n" not in "".join(written)
