"""Engines as routes see them: one backend, `embedded`, with a replica for each model."""

from collections.abc import Callable, Mapping
from typing import Protocol

from headgate.app.config import EMBEDDED
from headgate.app.inference import Inference
from headgate.backends.embedded_pool import EmbeddedPool
from headgate.core.ports import Backend, ModelInfo

AHEAD = 2
"""Calls let in to an engine, as a multiple of what it computes side by side: it never waits for the next one."""

Allow = Callable[[str, int | None], None]
"""Told how many calls each replica may be given at once; None: it is gone."""


class Routes(Protocol):
    """Where the models are offered to callers (`fleet.Fleet`)."""

    def add_own(
        self, name: str, models: tuple[ModelInfo, ...], backend: Backend | None = None, pool: str | None = None
    ) -> None: ...

    def remove_own(self, name: str) -> None: ...

    def publish(self) -> None: ...


class Offers:
    """Breakers, gates and loads are kept by replica. The first model's is the pool's own name: targets without a model
    of their own (`*`) go there, so it stays when that model goes.
    """

    def __init__(self, routes: Routes, allow: Allow, models: Mapping[str, Inference]) -> None:
        self._routes = routes
        self._allow = allow
        self._models = models
        self._pool = EmbeddedPool(EMBEDDED, self._backend, self._listed)

    def replica(self, name: str) -> str:
        """Of a model that is to be added."""
        return f"{EMBEDDED}:{name}" if self._models else EMBEDDED

    def add(self, one: Inference) -> None:
        """In force with the next `publish`."""
        backend = self._pool if one.replica == EMBEDDED else one.backend
        self._allow(one.replica, AHEAD * one.hosted.settings.max_sequences)
        self._routes.add_own(one.replica, one.models, backend, EMBEDDED)

    def withdraw(self, one: Inference) -> None:
        """At once; what it serves goes on."""
        if one.replica == EMBEDDED:
            self._routes.add_own(EMBEDDED, (), self._pool, EMBEDDED)
        else:
            self._routes.remove_own(one.replica)
        self._routes.publish()

    def gone(self, one: Inference) -> None:
        """Its process has ended."""
        if one.replica != EMBEDDED:
            self._allow(one.replica, None)

    def publish(self) -> None:
        self._routes.publish()

    def _backend(self, name: str) -> Backend | None:
        one = self._models.get(name)
        return None if one is None or one.leaving else one.backend

    def _listed(self) -> list[ModelInfo]:
        return [info for one in self._models.values() if not one.leaving for info in one.models]
