"""The rules of routes as they are set: for all of them under `rules`, and what differs under a route's own."""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, structs

from headgate.core.faults import ErrorClass
from headgate.core.rules import Balance, Degraded, Hedge, HoldBack, Next, Patience, Rules, Way
from headgate.core.target import Target

Name = Annotated[str, Meta(min_length=1, max_length=256)]


class TargetSettings(Struct, frozen=True, forbid_unknown_fields=True):
    backend: Name
    model: Name = "*"
    """The upstream's name for it; `*` sends the name the caller asked for."""
    weight: Annotated[float, Meta(ge=0)] = 1.0

    def target(self) -> Target:
        return Target(self.backend, self.model, self.weight)


class RuleSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is not set is as it stands above: for a route the file's `rules`, for those the defaults of `core/rules`."""

    balance: Balance | UnsetType = UNSET
    timeouts: Patience | UnsetType = UNSET
    on_error: Mapping[ErrorClass, Next | tuple[TargetSettings, ...]] = {}
    """By class of error: `fallback`, `stop`, or the targets to try instead of the fallbacks."""
    recovery: tuple[Way, ...] | UnsetType = UNSET
    hold_back: HoldBack | UnsetType = UNSET
    hedge: Hedge | UnsetType | None = UNSET
    degraded: Degraded | UnsetType | None = UNSET
    single_flight: bool | UnsetType = UNSET

    def over(self, base: Rules) -> Rules:
        """These rules, and `base` where they say nothing."""
        given: dict[str, Any] = {
            name: value for name, value in structs.asdict(self).items() if name != "on_error" and value is not UNSET
        }
        on = {kind: then for kind, then in self.on_error.items() if isinstance(then, str)}
        return structs.replace(base, on_error={**base.on_error, **on}, **given)

    def chains(self) -> dict[ErrorClass, tuple[Target, ...]]:
        """The targets named for a class of error."""
        return {
            kind: tuple(setting.target() for setting in then)
            for kind, then in self.on_error.items()
            if not isinstance(then, str)
        }
