"""Kill switches: what is off by decision of a person, and what takes its place. Pure; the request path reads it.

A snapshot with nothing in it answers every question by looking at an empty dictionary and an empty tuple.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Literal, get_args

from msgspec import Struct

from headgate.core.errors import Overloaded

Kind = Literal["model", "backend", "tenant", "feature"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FEATURE_TAG = "feature"
"""The tag of a call whose value names the feature it is made for."""
CODE = "switched_off"
RETRY_SECONDS = 60.0
"""A switch that ends sooner than this is worth waiting for; SDKs do not wait longer, and ask again at once."""
HOPS_MAX = 8
"""Fallbacks of fallbacks that are followed."""


Off = Callable[[str, str], bool]
"""Whether a backend, or this replica of it, is switched off."""


class Switch(Struct, frozen=True, kw_only=True):
    """Turns off whatever of its kind has its name. Times are Unix seconds."""

    id: str
    kind: Kind
    name: str
    """As it is, or a glob such as `gpt-*`. A feature is the value of the call's tag `feature`."""
    fallback_model: str | None = None
    """What its calls get instead. None: they are refused."""
    message: str | None = None
    """What callers are told besides."""
    created_at: float
    expires_at: float | None = None
    created_by: str
    reason: str
    """For the colleagues: never shown to callers."""

    def on(self, now: float) -> bool:
        return self.expires_at is None or now < self.expires_at

    def covers(self, name: str) -> bool:
        return fnmatchcase(name, self.name) if is_glob(self.name) else name == self.name


class Group(Struct, frozen=True):
    """The switches of one kind."""

    exact: Mapping[str, Switch] = {}
    globs: tuple[Switch, ...] = ()
    """Newest first."""

    def find(self, name: str, now: float) -> Switch | None:
        """The one of this very name, else the newest glob that covers it."""
        switch = self.exact.get(name)
        if switch is not None and switch.on(now):
            return switch
        for switch in self.globs:
            if switch.on(now) and fnmatchcase(name, switch.name):
                return switch
        return None

    def __bool__(self) -> bool:
        return bool(self.exact or self.globs)


class Diversion(Struct, frozen=True):
    """Another model than the caller asked for, and the first switch on the way to it."""

    model: str
    switch: Switch


class Switches(Struct, frozen=True):
    """A snapshot. Made by `of`; one that nobody filled holds nothing."""

    version: int = 0
    in_force: tuple[Switch, ...] = ()
    """Newest first."""
    models: Group = Group()
    backends: Group = Group()
    tenants: Group = Group()
    features: Group = Group()

    @staticmethod
    def of(version: int, switches: Iterable[Switch]) -> "Switches":
        newest = tuple(sorted(switches, key=lambda one: (one.created_at, one.id), reverse=True))
        groups = {kind: _group(one for one in newest if one.kind == kind) for kind in KINDS}
        return Switches(version, newest, groups["model"], groups["backend"], groups["tenant"], groups["feature"])

    def model(self, model: str, now: float) -> Switch | None:
        return self.models.find(model, now)

    def tenant(self, tenant: str, now: float) -> Switch | None:
        return self.tenants.find(tenant, now)

    def feature(self, tags: Mapping[str, str], now: float) -> Switch | None:
        value = tags.get(FEATURE_TAG)
        return None if value is None else self.features.find(value, now)

    def backend(self, name: str, replica: str, now: float) -> Switch | None:
        """Of a backend, or of one of its replicas alone (`Target.at`)."""
        found = self.backends.find(name, now)
        return found if found is not None or replica == name else self.backends.find(replica, now)

    def off(self, now: float) -> "Off | None":
        """What is left out of every route; None while no backend is off."""
        if not self.backends:
            return None
        return lambda name, replica: self.backend(name, replica, now) is not None

    def judge(self, model: str, tenant: str, tags: Mapping[str, str], now: float) -> Switch | Diversion | None:
        """What becomes of a call before it is routed: refused by a switch, given another model, or left as it is.

        A fallback that is itself off leads to its own; one that leads nowhere, or round in a circle, refuses.
        """
        if not self.in_force:
            return None
        first: Switch | None = None
        asked = model
        for switch in (self.tenant(tenant, now), self.feature(tags, now)):
            if switch is not None:
                if switch.fallback_model is None:
                    return switch
                first, model = first or switch, switch.fallback_model
        for _ in range(HOPS_MAX):
            switch = self.model(model, now)
            if switch is None:
                return None if first is None or model == asked else Diversion(model, first)
            if switch.fallback_model is None:
                return switch
            first, model = first or switch, switch.fallback_model
        return first


def is_glob(name: str) -> bool:
    return any(char in name for char in "*?[")


def refusal(switch: Switch, now: float) -> Overloaded:
    """503 for a call that a switch turns off; `retry_after` where its end is known.

    Clients are asked to try again only where that end is near.
    """
    if switch.kind == "tenant":
        said = "This project's calls are switched off"
    elif is_glob(switch.name):
        said = f"Every {switch.kind} of the name '{switch.name}' is switched off"
    else:
        said = f"The {switch.kind} '{switch.name}' is switched off"
    parts = [f"{said}{'' if switch.expires_at is None else _until(switch.expires_at)}."]
    if switch.message is not None:
        parts.append(switch.message)
    elif switch.kind == "model":
        parts.append("Ask for another model, or ask an administrator.")
    else:
        parts.append("Ask an administrator.")
    left = None if switch.expires_at is None else max(switch.expires_at - now, 0.0)
    error = Overloaded(" ".join(parts), code=CODE, retry_after=left)
    error.retryable = left is not None and left <= RETRY_SECONDS
    return error


def _until(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime(" until %Y-%m-%d %H:%M:%S UTC")


def _group(switches: Iterable[Switch]) -> Group:
    exact: dict[str, Switch] = {}
    globs = []
    for switch in switches:
        if is_glob(switch.name):
            globs.append(switch)
        else:
            exact.setdefault(switch.name, switch)
    return Group(exact, tuple(globs))
