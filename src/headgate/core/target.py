"""Where a call may go: targets, routes and the snapshot of them."""

from fnmatch import fnmatchcase

from msgspec import Struct


class Target(Struct, frozen=True):
    """One model on one backend. `weight` shares traffic among the targets of a route."""

    backend: str
    model: str
    weight: float = 1.0


class Route(Struct, frozen=True):
    """A model name as callers know it: `targets` share the traffic, `fallbacks` are tried after them, in order."""

    name: str
    targets: tuple[Target, ...]
    fallbacks: tuple[Target, ...] = ()
    created: int = 0
    owned_by: str = "headgate"


class RouteTable(Struct, frozen=True):
    """A snapshot of all routes. Looked up exactly, then by pattern in order, then the catch-all.

    In a pattern or the catch-all a target's model may be `*`: the name the caller asked for.
    """

    version: int
    exact: dict[str, Route]
    patterns: tuple[Route, ...] = ()
    """Routes whose name is a glob, such as `gpt-*`."""
    catch_all: Route | None = None

    def find(self, model: str) -> Route | None:
        route = self.exact.get(model)
        if route is not None:
            return route
        for pattern in self.patterns:
            if fnmatchcase(model, pattern.name):
                return pattern
        return self.catch_all
