"""The gates of all backends: each made when its backend is first called, by its own settings."""

from collections.abc import Collection, Mapping

from headgate.core.clock import Clock
from headgate.pipeline.capacity import Adaptive, AdaptiveSettings, Capacity, Fixed
from headgate.pipeline.gate import Gate, GateSettings


class Gates:
    """`fixed` names the backends whose concurrency is set; the others' is found from their latency."""

    def __init__(self, clock: Clock, settings: GateSettings, adaptive: AdaptiveSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings
        self._adaptive = adaptive or AdaptiveSettings()
        self._fixed: Mapping[str, int] = {}
        self._gates: dict[str, Gate] = {}

    def use(self, settings: GateSettings, fixed: Mapping[str, int], adaptive: AdaptiveSettings | None = None) -> None:
        """New settings. A gate keeps its queue and those inside, and what it found out unless its kind changes, or the
        bounds of what it may find.
        """
        before, self._settings, self._fixed = self._fixed, settings, fixed
        bounds = adaptive or self._adaptive
        moved, self._adaptive = bounds != self._adaptive, bounds
        for name, gate in self._gates.items():
            same = fixed.get(name) == before.get(name) and not (moved and name not in fixed)
            gate.use(gate.capacity if same else self._capacity(name), settings)

    def fix(self, backend: str, limit: int | None) -> None:
        """A backend that comes or goes (None) beside the settings, as `fixed` says from then on."""
        fixed = {name: known for name, known in self._fixed.items() if name != backend}
        if limit is not None:
            fixed[backend] = limit
        self.use(self._settings, fixed)

    def of(self, backend: str) -> Gate:
        """Bounded by the number of backends, which the configuration names."""
        gate = self._gates.get(backend)
        if gate is None:
            gate = self._gates[backend] = Gate(backend, self._capacity(backend), self._settings, self._clock)
        return gate

    def keep(self, backends: Collection[str]) -> None:
        """Forgets all others that are empty."""
        for name, gate in list(self._gates.items()):
            if name not in backends and not gate.active and not gate.waiting:
                del self._gates[name]

    def limits(self) -> dict[str, float]:
        return {name: float(gate.limit) for name, gate in self._gates.items()}

    def active(self) -> dict[str, float]:
        return {name: float(gate.active) for name, gate in self._gates.items()}

    def waiting(self) -> dict[str, float]:
        return {name: float(gate.waiting) for name, gate in self._gates.items()}

    def _capacity(self, backend: str) -> Capacity:
        fixed = self._fixed.get(backend)
        return Adaptive(self._adaptive) if fixed is None else Fixed(fixed)
