"""All models of this server's engines as one backend, for targets that name no model of their own (`*`)."""

from collections.abc import Callable, Sequence

from headgate.core.call import Call
from headgate.core.errors import NotFound
from headgate.core.ports import Answer, Backend, Continues, CountsTokens, Health, ModelInfo
from headgate.core.target import Target


class EmbeddedPool:
    """Hands each call to the backend that has its model. The backends are not its own: it closes none."""

    kind = "embedded"

    def __init__(self, name: str, find: Callable[[str], Backend | None], listed: Callable[[], list[ModelInfo]]) -> None:
        self.name = name
        self._find = find
        self._listed = listed

    async def open(self, call: Call, target: Target) -> Answer:
        """Raises `NotFound` where no engine has the model."""
        backend = self._find(target.model)
        if backend is None:
            raise NotFound(f"No engine here has the model {target.model!r}.", code="model_not_found", param="model")
        return await backend.open(call, target)

    def continued(self, call: Call, target: Target, text: str) -> Call | None:
        """Implements `core.ports.Continues`."""
        backend = self._find(target.model)
        return backend.continued(call, target, text) if isinstance(backend, Continues) else None

    def count_input(self, call: Call) -> int | None:
        """Implements `core.ports.CountsTokens`."""
        backend = self._find(call.model)
        return backend.count_input(call) if isinstance(backend, CountsTokens) else None

    async def models(self) -> Sequence[ModelInfo]:
        return self._listed()

    async def probe(self) -> Health:
        """Each engine is watched by its own keeper."""
        return Health(True, f"{len(self._listed())} models")

    async def aclose(self) -> None:
        """Nothing is its own."""
