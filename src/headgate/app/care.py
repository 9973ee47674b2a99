"""What becomes of it when a replica falls ill or recovers: the log, the alert, and those who wait for it elsewhere."""

from headgate.backends.replicas import STUCK
from headgate.core.errors import Overloaded, UpstreamTimeout
from headgate.pipeline.upstreams import Upstreams
from headgate.telemetry import names
from headgate.telemetry.log import Level, Log

REFUSED = "credential refused"
"""How the reason begins where an upstream does not take our key."""
LEVELS: dict[str, Level] = {"closed": "info", "half_open": "info", "paused": "info"}
"""Of the log line; all others are warnings."""


class Care:
    """Hears of every change of a replica. `upstreams` is set once they are made."""

    def __init__(self, log: Log) -> None:
        self.upstreams: Upstreams | None = None
        self._log = log
        self._resting: set[str] = set()
        """Replicas that asked for a pause and are well otherwise."""

    def changed(self, at: str, state: str, why: str) -> None:
        """What `Replicas` tells."""
        refused = why.startswith(REFUSED)
        self._log.event(
            names.REPLICA_CHANGED,
            "error" if refused else LEVELS.get(state, "warning"),
            replica=at,
            state=state,
            why=why,
            remedy="renew its api_key, or its quota; other replicas take its calls meanwhile" if refused else None,
        )
        if self.upstreams is None:
            return
        if state == "closed" and at not in self._resting:  # one that rested has lost nothing
            self.upstreams.balancer.renew(at)
        (self._resting.add if state == "paused" else self._resting.discard)(at)
        if state not in {"failing", "open"}:
            return
        gone = Overloaded(f"The backend '{at}' is left alone for now ({why}).", code="backend_unavailable")
        self.upstreams.gates.of(at).turn_away(gone)
        if state == "failing" or why == STUCK:
            self.upstreams.desert(at, UpstreamTimeout(f"the model server fell silent ({why})", code="upstream_silent"))

    def failing(self, at: str, why: str | None) -> None:
        """What its probes tell."""
        if self.upstreams is not None:
            self.upstreams.replicas.failing(at, why)
