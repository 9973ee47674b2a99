"""Extra attempts, ours and those of the callers' SDKs, share one budget: a failing upstream is not hit harder.

The idea is Finagle's retry budget: a part of a retry is earned with each call, and a whole one is paid for each retry.
"""

from typing import Annotated

from msgspec import Meta, Struct


class RetrySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How many attempts there may be beside the first ones."""

    ratio: Annotated[float, Meta(ge=0, le=10)] = 0.2
    """Earned with each call."""
    reserve: Annotated[float, Meta(ge=0, le=100_000)] = 100.0
    """Retries that can be saved up; a fresh process has them all."""


class RetryBudget:
    """Of one process. Every method is synchronous."""

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
        """A call has come. One that is its caller's own retry is never refused for it, but it uses up the budget."""
        if client_retry:
            self._left = max(0.0, self._left - 1.0)
        else:
            self._left = min(self._settings.reserve, self._left + self._settings.ratio)

    def take(self) -> bool:
        """Whether one more attempt may be made for a call that has had one."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
