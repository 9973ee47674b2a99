"""From the model a caller named to the targets to try, in order. Synchronous and pure."""

import random
from collections.abc import Callable, Mapping

from headgate.core.call import Call
from headgate.core.errors import NotFound
from headgate.core.ports import Backend
from headgate.core.target import RouteTable, Target


def choose(call: Call, table: RouteTable, rng: random.Random, usable: Callable[[str], bool]) -> list[Target]:
    """The route's targets in a weighted random order, then its fallbacks in theirs; no target twice.

    Targets on backends that are not `usable` come last: a probe can be wrong, and trying beats refusing.

    Raises `NotFound` (`model_not_found`) where no route matches.
    """
    route = table.find(call.model)
    if route is None:
        raise NotFound(
            f"The model '{call.model[:200]}' does not exist here. GET /v1/models lists the models that do.",
            code="model_not_found",
            param="model",
        )
    ordered = [*_weighted_order(route.targets, rng), *route.fallbacks]
    seen: set[tuple[str, str]] = set()
    out = []
    for target in ordered:
        if target.model == "*":
            target = Target(target.backend, call.model, target.weight)
        if (target.backend, target.model) not in seen:
            seen.add((target.backend, target.model))
            out.append(target)
    out.sort(key=lambda target: not usable(target.backend))  # stable: the order within each half stays
    return out


def named(call: Call, backends: Mapping[str, Backend]) -> list[Target]:
    """The one target of a call that names its backend. Raises `NotFound` (`backend_not_found`)."""
    backend = backends.get(call.backend or "")
    if backend is None or backend.kind != call.dialect:
        raise NotFound(
            f"There is no backend '{(call.backend or '')[:100]}' that speaks the dialect of this call. "
            "The header x-headgate-backend of any answer names one.",
            code="backend_not_found",
        )
    return [Target(backend.name, call.model)]


def _weighted_order(targets: tuple[Target, ...], rng: random.Random) -> list[Target]:
    """First place by weight, the next by weight among the rest, and so on.

    Exponential keys: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    if len(targets) == 1:
        return [targets[0]]
    keyed = [
        (rng.expovariate(target.weight), place, target) for place, target in enumerate(targets) if target.weight > 0
    ]
    keyed.sort()
    return [target for _, _, target in keyed]
