from headgate.core.target import Route, RouteTable, Target


def _route(name: str) -> Route:
    return Route(name, (Target("somewhere", "*"),))


TABLE = RouteTable(
    version=1,
    exact={"gpt-small": _route("gpt-small")},
    patterns=(_route("gpt-*"), _route("gpt-small*"), _route("[ab]?")),
    catch_all=_route("*"),
)


def _found(table: RouteTable, model: str) -> str | None:
    route = table.find(model)
    return None if route is None else route.name


def test_an_exact_name_wins_over_every_pattern() -> None:
    assert _found(TABLE, "gpt-small") == "gpt-small"


def test_patterns_are_tried_in_the_order_they_stand() -> None:
    assert _found(TABLE, "gpt-small-2") == "gpt-*"
    assert _found(TABLE, "a1") == "[ab]?"


def test_case_counts() -> None:
    assert _found(TABLE, "GPT-small") == "*"


def test_the_catch_all_takes_the_rest_and_without_it_nothing_is_found() -> None:
    assert _found(TABLE, "mistral") == "*"
    assert _found(RouteTable(version=1, exact=TABLE.exact, patterns=TABLE.patterns), "mistral") is None
