"""Where a call may go: targets, routes and the snapshot of them."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

from headgate.core.faults import ErrorClass
from headgate.core.rules import Patience, Rules


class Target(Struct, frozen=True):
    """One model on one replica of a backend. `weight` shares traffic among the targets of a route."""

    backend: str
    """As the configuration, the price book and the ledger call it."""
    model: str
    weight: float = 1.0
    replica: str = ""
    """Which of the backend's servers or credentials, where it has several: `vllm-2`."""
    patience: Patience | None = None
    """The route's own timeouts, where it has some."""

    @property
    def at(self) -> str:
        """What health, breakers, gates and loads are kept under."""
        return self.replica or self.backend


class Routed(Struct, frozen=True):
    """Where a call may go: the first `primary` of `targets` share the calls, the others are fallbacks in order."""

    targets: tuple[Target, ...]
    primary: int = 1
    rules: Rules = Rules()
    chains: Mapping[ErrorClass, tuple[Target, ...]] = {}


class Route(Struct, frozen=True):
    """A model name as callers know it: `targets` share the traffic, `fallbacks` are tried after them, in order."""

    name: str
    targets: tuple[Target, ...]
    fallbacks: tuple[Target, ...] = ()
    created: int = 0
    owned_by: str = "headgate"
    rules: Rules = Rules()
    chains: Mapping[ErrorClass, tuple[Target, ...]] = {}
    """Where a failure of this class goes instead of the fallbacks: a longer model for `context_length`."""
    plain: Routed | None = None
    """The same for every call, where nothing depends on the model's name or on what is switched off."""


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
