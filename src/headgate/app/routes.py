"""From configuration and what the backends list to the snapshot of routes."""

from collections.abc import Mapping, Sequence

from headgate.app.config import RouteSettings
from headgate.core.ports import ModelInfo
from headgate.core.target import Route, RouteTable, Target


def build_routes(
    version: int,
    configured: Sequence[RouteSettings],
    listed: Mapping[str, Sequence[ModelInfo]],
    aliases: Mapping[str, Mapping[str, str]],
) -> RouteTable:
    """`listed` holds each backend's models in order of preference, `aliases` its other names for them.

    A configured route wins over a listed model of the same name. A model that several backends list goes to the first,
    with the others as fallbacks, in order.
    """
    exact: dict[str, Route] = {}
    patterns: list[Route] = []
    catch_all: Route | None = None
    for setting in configured:
        targets = tuple(target.target() for target in setting.targets)
        fallbacks = tuple(target.target() for target in setting.fallbacks)
        route = Route(setting.model, targets, fallbacks)
        if setting.model == "*":
            catch_all = route
        elif any(sign in setting.model for sign in "*?["):
            patterns.append(route)
        else:
            exact[setting.model] = route
    named = set(exact)
    for backend, models in listed.items():
        offered = [(model, model.id) for model in models]
        known = {model.id: model for model in models}
        for alias, upstream in aliases.get(backend, {}).items():
            offered.append((known.get(upstream, ModelInfo(upstream, owned_by=backend)), alias))
        for model, name in offered:
            if name not in named:
                exact[name] = _with(exact.get(name), name, Target(backend, model.id), model)
    return RouteTable(version, exact, tuple(patterns), catch_all)


def _with(route: Route | None, name: str, target: Target, model: ModelInfo) -> Route:
    if route is None:
        return Route(name, (target,), created=model.created, owned_by=model.owned_by or target.backend)
    return Route(name, route.targets, (*route.fallbacks, target), route.created, route.owned_by)


def visible_models(table: RouteTable) -> list[ModelInfo]:
    """The models with a name of their own, sorted; patterns have none to show."""
    return [ModelInfo(route.name, route.created, route.owned_by) for _, route in sorted(table.exact.items())]
