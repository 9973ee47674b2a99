"""The request path with the stages of single flight and degradation before and behind dispatch."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headgate.core.call import Call
from headgate.core.errors import Bug, HeadgateError
from headgate.core.events import Event
from headgate.core.ports import Backend
from headgate.core.principal import KeyTable, Principal, hash_key
from headgate.core.reply import Reply
from headgate.core.rules import Rules
from headgate.core.target import Route, RouteTable, Target
from headgate.pipeline.admission import Lease
from headgate.pipeline.degraded import Degraded
from headgate.pipeline.dispatch import Dispatch
from headgate.pipeline.flights.shared import Memory
from headgate.pipeline.flights.stage import Flights
from headgate.pipeline.holds import NOTHING, Hold
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
        first, *others = [Target(name, "m") for name in self.backends]
        self.gateway.routes = RouteTable(1, {"m": Route("m", (first,), tuple(others), rules=self.rules)})
        self.memory = memory or Memory()
        self.flights = Flights(Dispatch(self.path.upstreams).send, self._again, self.clock, self.memory)
        self.degraded = Degraded(self.clock)
        self.other = Principal("key_2", "globex", frozenset({"inference"}))
        keys = {hash_key(SECRET, KEY): self.principal, hash_key(SECRET, OTHER): self.other}
        self.auth = type(self.auth)(self.clock, SECRET, KeyTable(1, keys))
        self.again: list[str] = []
        self.refuse: HeadgateError | None = None
        """Why nothing more can be held."""

    async def _again(self, lease: Lease, claim: str) -> Hold:
        self.again.append(claim)
        if self.refuse is not None:
            raise self.refuse
        return Hold(self.limiter, claim, lease.booked.terms, NOTHING)

    async def handle(self, **more: Any) -> Reply:
        more.setdefault("temperature", 0)
        return await self.take(self.call(**more))

    async def take(self, call: Call) -> Reply:
        """As the gateway does it."""
        reply = Reply()
        story = self.meter.begin(call)
        reply.own(story.done)
        try:
            story.principal = principal = self.auth.check(call.credential, "inference", call.model)
            lease = await self.admission.admit(principal, call, self.gateway._targets)
            reply.own(lambda: self.admission.leave(lease, story.usage.total))
            try:
                joined = await self.flights.send(lease, reply, story, self.rules)
            except HeadgateError as error:
                if self.degraded.serve(self.rules, lease, reply, story, error) is None:
                    raise
            else:
                if not joined:
                    self.degraded.keep(self.rules, lease, reply, story)
        except HeadgateError as error:
            story.fail(error)
            error.headers = error.headers or reply.headers
            await reply.aclose(error)
            raise
        except BaseException as error:
            bug = Bug("Unexpected.") if isinstance(error, Exception) else None
            if bug is not None:
                story.fail(bug)
            await reply.aclose(bug)
            raise
        return reply

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
