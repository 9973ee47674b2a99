"""From configuration and what the backends list to the snapshot of routes."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from headgate.app.config import RouteSettings
from headgate.app.rules import RuleSettings
from headgate.core.ports import ModelInfo
from headgate.core.rules import Patience, Rules
from headgate.core.target import Route, RouteTable, Target


class Pools(Struct, frozen=True):
    """The replicas behind the names of backends."""

    several: Mapping[str, Sequence[tuple[str, float]]] = {}
    """Of the backends that have several alike, with their weights."""
    places: Mapping[tuple[str, str], str] = {}
    """Where a model of a backend is, if its replicas have each their own: by backend and model."""


def build_routes(
    version: int,
    configured: Sequence[RouteSettings],
    listed: Mapping[str, Sequence[ModelInfo]],
    aliases: Mapping[str, Mapping[str, str]],
    rules: RuleSettings,
    pools: Pools,
) -> RouteTable:
    """`listed` holds each backend's models in order of preference, `aliases` its other names for them.

    A configured route wins over a listed model of the same name. A model that several backends list goes to the first,
    with the others as fallbacks, in order. A target on a backend with replicas becomes one on each of them.
    """
    exact: dict[str, Route] = {}
    patterns: list[Route] = []
    catch_all: Route | None = None
    general = Route("", (), rules=rules.over(Rules()), chains=rules.chains())
    for setting in configured:
        route = _spread(
            Route(
                setting.model,
                tuple(target.target() for target in setting.targets),
                tuple(target.target() for target in setting.fallbacks),
                rules=setting.rules.over(general.rules),
                chains={**general.chains, **setting.rules.chains()},
            ),
            pools,
        )
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
                exact[name] = _with(exact.get(name, general), name, Target(backend, model.id), model)
    for name in exact.keys() - named:
        exact[name] = _spread(exact[name], pools)
    return RouteTable(version, exact, tuple(patterns), catch_all)


def _with(route: Route, name: str, target: Target, model: ModelInfo) -> Route:
    if not route.targets:
        owner = model.owned_by or target.backend
        return structs.replace(route, name=name, targets=(target,), created=model.created, owned_by=owner)
    return structs.replace(route, fallbacks=(*route.fallbacks, target))


def _spread(route: Route, pools: Pools) -> Route:
    patience = None if route.rules.timeouts == Patience() else route.rules.timeouts

    def over(targets: Iterable[Target]) -> tuple[Target, ...]:
        return tuple(
            structs.replace(one, patience=patience)
            for target in targets
            for one in on_replicas(target, pools, route.name)
        )

    chains = {kind: over(targets) for kind, targets in route.chains.items()}
    return structs.replace(route, targets=over(route.targets), fallbacks=over(route.fallbacks), chains=chains)


def on_replicas(target: Target, pools: Pools, name: str = "") -> list[Target]:
    """The target on each of its backend's replicas, which share its weight, or on the one that has its model.

    `name` is the route's, for a target whose model is `*`. Behind a pattern that says nothing.
    """
    replicas = pools.several.get(target.backend)
    if not replicas:
        place = pools.places.get((target.backend, name if target.model == "*" else target.model))
        return [target] if place is None else [structs.replace(target, replica=place)]
    total = sum(weight for _, weight in replicas)
    return [structs.replace(target, replica=name, weight=target.weight * weight / total) for name, weight in replicas]


def visible_models(table: RouteTable) -> list[ModelInfo]:
    """The models with a name of their own, sorted; patterns have none to show."""
    return [ModelInfo(route.name, route.created, route.owned_by) for _, route in sorted(table.exact.items())]
