"""The admission stage alone, under a virtual clock."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from headgate.core.counters import Take
from headgate.core.principal import KeyLimits, Principal
from headgate.ledger.journal import Journal
from headgate.pipeline.admission import Admission, AdmissionSettings, Lease
from headgate.storage.counters.memory import MemoryCounters
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call

WIDE = KeyLimits()


class Door:
    def __init__(
        self, folder: Path, limits: KeyLimits = WIDE, counters: MemoryCounters | None = None, **settings: Any
    ) -> None:
        self.clock = VirtualClock()
        self.journal = Journal(folder / "ledger")
        self.counters = MemoryCounters(self.clock) if counters is None else counters
        self.principal = Principal("key_1", "acme", frozenset({"inference"}), limits=limits)
        self.admission = Admission(AdmissionSettings(**settings), self.counters, self.clock, self.journal)

    async def enter(self, key: str | None = None, **call: Any) -> Lease:
        principal = self.principal if key is None else Principal(key, "t", frozenset({"inference"}))
        return await self.admission.admit(principal, make_call(self.clock, **call))

    async def leave(self, lease: Lease, used: int | None = None) -> None:
        await self.admission.leave(lease, lease.reserved if used is None else used)

    async def remaining(self, kind: str) -> float:
        per_minute = 60_000 if kind == "requests" else 20_000_000
        limits = self.principal.limits
        given = limits.requests_per_minute if kind == "requests" else limits.tokens_per_minute
        capacity = given or per_minute
        state = await self.counters.take([Take(f"{kind}:{self.principal.key_id}", 0, capacity, capacity / 60)])
        return float(state.states[0].remaining)

    def empty(self) -> bool:
        return (self.admission.active, self.admission.waiting) == (0, 0) and not self.admission._by_key


MakeDoor = Callable[..., Door]
