"""From the model a caller named to the targets it may go to. Synchronous and pure."""

from collections.abc import Mapping, Sequence

from msgspec import structs

from headgate.core.call import Call
from headgate.core.errors import NotFound, Overloaded
from headgate.core.ports import Backend
from headgate.core.switches import Off
from headgate.core.target import Route, Routed, RouteTable, Target


def choose(call: Call, table: RouteTable, off: Off | None = None) -> Routed:
    """The route's own targets, which share the calls, then its fallbacks in order; no target twice.

    Backends that are switched `off` are left out. Raises `NotFound` (`model_not_found`) where no route matches, and
    `Overloaded` (`switched_off`) where all its targets are off.
    """
    route = table.find(call.model)
    if route is None:
        raise NotFound(
            f"The model '{call.model[:200]}' does not exist here. GET /v1/models lists the models that do.",
            code="model_not_found",
            param="model",
        )
    if route.plain is not None and off is None:
        return route.plain
    return resolve(route, call.model, off)


def resolve(route: Route, model: str, off: Off | None = None) -> Routed:
    """The targets of a route for this model. Raises `Overloaded` (`switched_off`)."""
    seen: set[tuple[str, str]] = set()
    own = _named(route.targets, model, off, seen)
    fallbacks = _named(route.fallbacks, model, off, seen)
    if not own and not fallbacks:
        raise Overloaded(
            f"All backends of the model '{model[:200]}' are switched off. Name another model, or wait until an "
            "operator switches one on.",
            code="switched_off",
        )
    chains = {kind: _named(targets, model, off, set()) for kind, targets in route.chains.items()}
    return Routed((*own, *fallbacks), len(own), route.rules, chains)


def named(
    call: Call, backends: Mapping[str, Backend], pools: Mapping[str, Sequence[str]], off: Off | None = None
) -> Routed:
    """The targets of a call that names its backend: its replicas, or the one named. Raises `NotFound`
    (`backend_not_found`), and `Overloaded` (`switched_off`).
    """
    name = call.backend or ""
    replicas = [at for at in pools.get(name, (name,)) if at in backends and backends[at].kind == call.dialect]
    pool = name if name in pools else next((pool for pool, of in pools.items() if name in of), name)
    if not replicas:
        raise NotFound(
            f"There is no backend '{name[:100]}' that speaks the dialect of this call. "
            "The header x-headgate-backend of any answer names one.",
            code="backend_not_found",
        )
    targets = tuple(
        Target(pool, call.model, replica=at if at != pool else "")
        for at in replicas
        if off is None or not off(pool, at)
    )
    if not targets:
        raise Overloaded(f"The backend '{name[:100]}' is switched off. Try again later.", code="switched_off")
    return Routed(targets, len(targets))


def _named(targets: Sequence[Target], model: str, off: Off | None, seen: set[tuple[str, str]]) -> tuple[Target, ...]:
    """The targets with the model's name in the place of `*`, without those of weight 0, off or seen before."""
    out = []
    for given in targets:
        target = structs.replace(given, model=model) if given.model == "*" else given
        key = (target.at, target.model)
        if target.weight > 0 and key not in seen and not (off is not None and off(target.backend, target.at)):
            seen.add(key)
            out.append(target)
    return tuple(out)
