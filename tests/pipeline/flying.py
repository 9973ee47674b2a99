"""The request path with the stages of single flight and degradation before and behind dispatch."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headgate.core.errors import HeadgateError
from headgate.core.events import Event
from headgate.core.ports import Backend
from headgate.core.principal import KeyTable, Principal, hash_key
from headgate.core.reply import Reply
from headgate.core.rules import Rules
from headgate.core.target import Route, RouteTable, Target
from headgate.pipeline.admission import Lease
from headgate.pipeline.auth import Auth
from headgate.pipeline.degraded import Degraded
from headgate.pipeline.dispatch import Dispatch
from headgate.pipeline.flights.shared import Memory
from headgate.pipeline.flights.stage import Flights
from headgate.pipeline.gateway import Gateway
from headgate.pipeline.holds import Hold
from tests.pipeline.spine import KEY, SECRET, Spine, read

OTHER = "hg-canary-key-of-another-tenant"


class Flying(Spine):
    """`rules` are those of its one route."""

    def __init__(
        self, folder: Path, backends: Sequence[Backend], *, rules: Rules | None = None, memory: Memory | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(folder, backends, **more)
        self.rules = rules or Rules()
        self.memory = memory or Memory()
        self.flights = Flights(Dispatch(self.path.upstreams).send, self._lead, self.clock, self.memory)
        self.degraded = Degraded(self.clock)
        self.other = Principal("key_2", "globex", frozenset({"inference"}))
        keys = {hash_key(SECRET, KEY): self.principal, hash_key(SECRET, OTHER): self.other}
        self.auth = Auth(self.clock, SECRET, KeyTable(1, keys))
        self.gateway = Gateway(self.auth, self.admission, self.flights, self.degraded, self.meter, self.clock)
        first, *others = [Target(name, "m") for name in self.backends]
        self.gateway.routes = RouteTable(1, {"m": Route("m", (first,), tuple(others), rules=self.rules)})
        self.again: list[str] = []
        """Claims for runs that another call was to lead anew."""
        self.refuse: HeadgateError | None = None
        """Why nothing more can be held."""

    async def _lead(self, lease: Lease, claim: str) -> Hold:
        self.again.append(claim)
        if self.refuse is not None:
            raise self.refuse
        return await self.admission.lead(lease, claim)

    async def handle(self, **more: Any) -> Reply:
        more.setdefault("temperature", 0)
        return await self.gateway.handle(self.call(**more))

    async def outcome(self, **more: Any) -> tuple[dict[bytes, bytes], list[Event | bytes]]:
        """The headers and the answer of one call."""
        reply = await self.handle(**more)
        try:
            return dict(reply.headers), await read(reply)
        finally:
            await reply.aclose()

    def at_rest(self) -> None:
        super().at_rest()
        assert self.memory.used == 0
        assert not self.flights.joinable

    def count(self, result: str) -> int:
        """Of `headgate_single_flight_total`."""
        for line in self.metrics.page()[0].decode().splitlines():
            if line.startswith(f'headgate_single_flight_total{{result="{result}"}} '):
                return int(float(line.split()[1]))
        return 0


async def start(spine: Flying, count: int, **more: Any) -> list["asyncio.Task[Reply]"]:
    """So many identical calls, each waiting for its answer to begin."""
    tasks = [asyncio.create_task(spine.handle(**more)) for _ in range(count)]
    before = spine.admission.gate.active
    while spine.admission.gate.active < before + count:
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks
