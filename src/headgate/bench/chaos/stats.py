"""What the chaos upstream saw and did, counted."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_MARKERS = 200_000
"""Markers counted one by one; those beyond are counted together."""


@dataclass(slots=True)
class Stats:
    """Requests are those for answers; probes and `/chaos` are counted apart, or not at all."""

    requests: int = 0
    open: int = 0
    peak: int = 0
    finished: int = 0
    cancelled: int = 0
    """Requests whose client left before the end."""
    probes: int = 0
    connections: int = 0
    accepted: int = 0
    refused: int = 0
    """Requests that were malformed, or whose order was."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Of the answers begun, whole."""
    faults: Counter[str] = field(default_factory=Counter)
    markers: Counter[str] = field(default_factory=Counter)
    markers_beyond: int = 0
    last: dict[str, Any] = field(default_factory=dict)
    """The last request: path, headers, body."""

    def began(self) -> None:
        self.requests += 1
        self.open += 1
        if self.open > self.peak:
            self.peak = self.open

    def marked(self, marker: str) -> None:
        if len(self.markers) < _MARKERS or marker in self.markers:
            self.markers[marker] += 1
        else:
            self.markers_beyond += 1

    def counts(self) -> dict[str, Any]:
        """Everything but the last request."""
        names = (name for name in self.__slots__ if name not in {"last", "faults", "markers"})
        counted: dict[str, Any] = {name: getattr(self, name) for name in names}
        return counted | {"faults": dict(self.faults), "markers": dict(self.markers)}

    def reset(self) -> None:
        """Forgets all but what is open now."""
        fresh = Stats(open=self.open, peak=self.open, connections=self.connections)
        for name in self.__slots__:
            setattr(self, name, getattr(fresh, name))
