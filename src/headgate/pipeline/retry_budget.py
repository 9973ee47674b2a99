"""Extra attempts, ours and those of the callers' SDKs, share one budget per backend: a failing one is not hit harder.

The idea is Finagle's retry budget: a part of a retry is earned with each call, and a whole one is paid for each retry.
"""

from collections.abc import Collection
from typing import Annotated

from msgspec import Meta, Struct


class RetrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How often, how soon and how much is tried again."""

    attempts: Annotated[int, Meta(ge=1, le=20)] = 3
    """Attempts of one call at the same model, the first included. Each fallback may have one more; one with replicas as
    many, paid for like retries."""
    ratio: Annotated[float, Meta(ge=0, le=10)] = 0.1
    """Retries earned with each call: extra load stays below this part of the calls."""
    reserve: Annotated[float, Meta(ge=0, le=100_000)] = 100.0
    """Retries that a backend can save up; a fresh process has them all."""
    backoff_s: Annotated[float, Meta(ge=0, le=60)] = 0.25
    """Before the same target is tried again, doubled each time and jittered. Another target is tried at once."""
    backoff_max_s: Annotated[float, Meta(ge=0, le=600)] = 4.0
    wait_s: Annotated[float, Meta(ge=0, le=600)] = 1.0
    """A Retry-After this short is waited for before a call falls back to another model."""
    retry_after_max_s: Annotated[float, Meta(ge=0, le=3600)] = 20.0
    """A longer one is not waited for even where there is no fallback; nor is one that the deadline does not allow."""


KEPT = 0.5
"""The part of the reserve that callers' own retries leave."""


class RetryBudget:
    """Of one backend in one process. Every method is synchronous."""

    __slots__ = ("_left", "_settings")

    def __init__(self, settings: RetrySettings | None = None) -> None:
        self._settings = settings or RetrySettings()
        self._left = self._settings.reserve

    @property
    def left(self) -> float:
        return self._left

    def use(self, settings: RetrySettings) -> None:
        self._settings = settings
        self._left = min(self._left, settings.reserve)

    def came(self, client_retry: bool) -> None:
        """A call has come. One that is its caller's own retry is never refused for it, but it uses up the budget.

        Half of it at most, since what a caller says of itself may not take away what all have.
        """
        if client_retry:
            self._left = max(min(self._left, self._settings.reserve * KEPT), self._left - 1.0)
        else:
            self._left = min(self._settings.reserve, self._left + self._settings.ratio)

    def take(self) -> bool:
        """Whether one more attempt may be made for a call that has had one."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class RetryBudgets:
    """One for each backend that was called, and the settings that all share."""

    def __init__(self, settings: RetrySettings | None = None) -> None:
        self.settings = settings or RetrySettings()
        self._budgets: dict[str, RetryBudget] = {}

    def of(self, backend: str) -> RetryBudget:
        """Bounded by the number of backends, which the configuration names."""
        budget = self._budgets.get(backend)
        if budget is None:
            budget = self._budgets[backend] = RetryBudget(self.settings)
        return budget

    def use(self, settings: RetrySettings) -> None:
        self.settings = settings
        for budget in self._budgets.values():
            budget.use(settings)

    def keep(self, backends: Collection[str]) -> None:
        """Forgets all others."""
        for gone in self._budgets.keys() - set(backends):
            del self._budgets[gone]

    def left(self) -> dict[str, float]:
        return {name: budget.left for name, budget in self._budgets.items()}
