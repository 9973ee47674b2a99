"""The request path with the stages of single flight and degradation before and behind dispatch."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from headgate.core.call import Call
from headgate.core.errors import HeadgateError
from headgate.core.events import Event, Finish, Text
from headgate.core.ports import Backend, Progress
from headgate.core.principal import KeyTable, Principal, hash_key
from headgate.core.reply import Reply
from headgate.core.rules import Rules
from headgate.core.target import Route, RouteTable, Target
from headgate.core.usage import Usage
from headgate.pipeline.admission import Lease
from headgate.pipeline.auth import Auth
from headgate.pipeline.degraded import Degraded
from headgate.pipeline.dispatch import dispatch
from headgate.pipeline.flights.shared import Memory
from headgate.pipeline.flights.stage import Flights
from headgate.pipeline.gateway import Gateway
from headgate.pipeline.holds import Hold
from tests.pipeline.spine import KEY, SECRET, Spine, read

OTHER = "hg-canary-key-of-another-tenant"


WHOLE: list[Event | bytes] = [Text("one"), Finish("stop"), Usage(input=3, output=1)]


class Turns:
    """A backend's stream whose pieces the test lets out: `let(1)` lets one more out, of every run."""

    def __init__(self, *first_runs: HeadgateError | None) -> None:
        self.runs = 0
        self.allowed = 0
        self._changed = asyncio.Condition()
        self._errors = list(first_runs)

    async def __call__(self, call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        self.runs += 1
        error = self._errors.pop(0) if self._errors else None
        for number, item in enumerate(WHOLE):
            while self.allowed <= number:
                async with self._changed:
                    await self._changed.wait()
            if error is not None:
                raise error
            progress.output_tokens += 1
            yield item

    async def let(self, count: int = 3) -> None:
        self.allowed += count
        async with self._changed:
            self._changed.notify_all()


class Flying(Spine):
    """`rules` are those of its one route."""

    def __init__(
        self, folder: Path, backends: Sequence[Backend], *, rules: Rules | None = None, memory: Memory | None = None,
        rest_s: float = Spine.rest_s, **more: Any,
    ) -> None:  # fmt: skip
        self.rest_s = rest_s
        super().__init__(folder, backends, **more)
        self.rules = rules or Rules()
        self.memory = memory or Memory()
        self.flights = Flights(partial(dispatch, self.path.upstreams), self._lead, self.clock, self.memory)
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
