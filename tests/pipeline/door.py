"""The admission stage alone, under a virtual clock."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from headgate.app.config import Config
from headgate.app.pathway import gate_settings, pathway
from headgate.core.call import Call
from headgate.core.ids import Ids
from headgate.core.limiter import Cost, Limiter, Plan, Rate
from headgate.core.policy import Governed
from headgate.core.principal import KeyLimits, KeyTable, Principal
from headgate.core.target import Routed, Target
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.ledger.journal import Journal
from headgate.ledger.prices import PriceBook, PriceTable
from headgate.pipeline.admission import AdmissionSettings, Lease
from headgate.pipeline.auth import Auth
from headgate.pipeline.meter import Meter
from headgate.storage.limits.memory import MemoryLimiter
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from tests.clock import VirtualClock
from tests.pipeline.spine import PRICED, make_call

WIDE = KeyLimits()
DAY = 20_000 * 86_400.0
"""The morning of 2024-10-04: the clock of these tests begins there."""


class Door:
    """`spent` is what the ledger is taken to know: nanodollars and tokens, for every question alike."""

    def __init__(
        self,
        folder: Path,
        limits: KeyLimits = WIDE,
        limiter: Limiter | None = None,
        policies: tuple[Governed, ...] = (),
        **settings: Any,
    ) -> None:
        self.clock = VirtualClock()
        self.journal = Journal(folder / "ledger")
        self.limiter = MemoryLimiter(self.clock) if limiter is None else limiter
        self.principal = Principal("key_1", "acme", frozenset({"inference"}), limits=limits, policies=policies)
        self.lines: list[str] = []
        self.asked: list[SpendQuestion] = []
        self.spent = (0, 0)
        rng = random.Random(1)
        log = Log(self.clock, "debug", self.lines.append)
        prices = PriceTable(PriceBook("v1", (PRICED,)))
        meter = Meter(self.clock, Ids(self.clock, rng), prices, self.journal, Metrics(), log)
        config = Config(admission=AdmissionSettings(**settings))
        self.path = pathway(config, Auth(self.clock, b"s", KeyTable(1, {})), self.limiter, self._sums, meter, rng)
        self.admission = self.path.gateway.admission

    async def _sums(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        self.asked += questions
        return [self.spent for _ in questions]

    def find(self, call: Call) -> Routed:
        return Routed((Target("a", call.model),))

    async def enter(self, key: str | None = None, **call: Any) -> Lease:
        principal = self.principal if key is None else Principal(key, "t", frozenset({"inference"}))
        return await self.admit(make_call(self.clock, **call), principal)

    async def admit(self, call: Call, principal: Principal | None = None) -> Lease:
        return await self.admission.admit(principal or self.principal, call, self.find)

    def leave(self, lease: Lease, used: int | None = None, nanos: int | None = None) -> None:
        """As the gateway does it: the attempt settles its hold, then the call leaves."""
        tokens = lease.booked.cost.tokens if used is None else used
        hold = lease.first_hold()
        if hold is not None:
            hold.settle(Cost(tokens, hold.cost.nanos if nanos is None else nanos))
        self.admission.leave(lease, tokens)

    def use(self, **settings: Any) -> None:
        new = AdmissionSettings(**settings)
        self.admission.use(new, gate_settings(new))

    async def remaining(self, kind: str) -> float:
        given = self.principal.limits
        amount = (given.requests_per_minute or 60_000) if kind == "requests" else given.tokens_per_minute or 20_000_000
        key = f"token_bucket:key:{self.principal.key_id}:{kind}/minute/all/*:"
        rate = Rate(key=key, amount=amount, window_s=60, tokens=True, burst=amount)
        verdict = await self.limiter.reserve("asking", Plan(rates=(rate,)), Cost(0), 1.0)
        return verdict.rates[0].remaining

    @property
    def active(self) -> int:
        return self.admission.gate.active

    @property
    def waiting(self) -> int:
        return self.admission.gate.waiting

    def empty(self) -> bool:
        return (self.active, self.waiting) == (0, 0)


MakeDoor = Callable[..., Door]
