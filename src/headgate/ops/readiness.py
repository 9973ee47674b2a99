"""Whether this process should get traffic: not before a real inference has run, and not while it drains."""

from collections.abc import Callable
from typing import Any


class Readiness:
    """Checks are callables of no argument that give (ok, detail); all must be ok. Liveness never asks them."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[], tuple[bool, Any]]] = {}
        self.draining = False

    def require(self, name: str, check: Callable[[], tuple[bool, Any]]) -> None:
        self._checks[name] = check

    def __call__(self) -> tuple[bool, dict[str, Any]]:
        results = {name: check() for name, check in self._checks.items()}
        ok = not self.draining and all(passed for passed, _ in results.values())
        return ok, {"draining": self.draining, **{name: detail for name, (_, detail) in results.items()}}
