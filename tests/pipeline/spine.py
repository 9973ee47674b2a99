"""The whole request path, of real parts, and backends that do what a test says."""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from headgate.app.config import Config, HealthConfig
from headgate.app.pathway import pathway
from headgate.backends.breaker import BreakerSettings
from headgate.backends.script import Script
from headgate.backends.scripted import ScriptedBackend
from headgate.core.call import Call
from headgate.core.clock import Clock, SystemClock
from headgate.core.deadline import Deadline
from headgate.core.errors import HeadgateError
from headgate.core.events import Event
from headgate.core.ids import Ids
from headgate.core.limiter import Limiter
from headgate.core.ports import Answer, Backend, Health, ModelInfo, Progress
from headgate.core.principal import KeyLimits, KeyTable, Principal, hash_key
from headgate.core.reply import Reply
from headgate.core.request import ChatRequest, CompletionRequest
from headgate.core.rules import Rules
from headgate.core.target import Route, RouteTable, Target
from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.ledger.journal import Journal, decode
from headgate.ledger.prices import Price, PriceBook, PriceTable
from headgate.pipeline.admission import AdmissionSettings
from headgate.pipeline.auth import Auth
from headgate.pipeline.meter import Meter
from headgate.pipeline.retry_budget import RetrySettings
from headgate.storage.limits.memory import MemoryLimiter
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics

SECRET = b"server secret of the tests"
KEY = "hg-canary-key-0123456789"
PROMPT = "canary prompt text"
_numbers = itertools.count()
AT_ONCE = RetrySettings(backoff_s=0.0)
PRICED = Price(model="m", effective=date(2020, 1, 1), input=1, output=2)


def make_call(
    clock: Clock,
    model: str = "m",
    *,
    stream: bool = True,
    seconds: float = 60.0,
    credential: str | None = KEY,
    text: str = PROMPT,
    **body: Any,
) -> Call:
    """A chat call as the api would hand it over."""
    fields = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream, **body}
    raw = msgspec.json.encode(fields)
    return Call(
        id=f"req_{next(_numbers)}",
        operation="chat",
        dialect="openai",
        model=model,
        body=msgspec.json.decode(raw, type=ChatRequest),
        raw=raw,
        stream=stream,
        include_usage=False,
        deadline=Deadline.after(clock, seconds),
        received=clock.monotonic(),
        credential=credential,
        user=body.get("user"),
    )


def completion_call(clock: Clock, **body: Any) -> Call:
    raw = msgspec.json.encode({"model": "m", **body})
    decoded = msgspec.json.decode(raw, type=CompletionRequest)
    moment = clock.monotonic()
    return Call(
        id=f"req_{next(_numbers)}", operation="completion", dialect="openai", model="m", body=decoded, raw=raw,
        stream=False, include_usage=False, deadline=Deadline(moment + 60), received=moment,
    )  # fmt: skip


Tell = Callable[[Call, Progress], AsyncGenerator[Event | bytes]]


class Telling:
    """A backend whose stream is a test's own generator; `counts` says whether it counts tokens itself."""

    kind = "telling"

    def __init__(self, name: str, tell: Tell, *, counts: bool = False, hang_open: bool = False) -> None:
        self.name = name
        self._tell = tell
        self._counts = counts
        self._hang_open = hang_open
        self.opened = 0
        self.closed = 0
        self.cancelled = 0

    async def open(self, call: Call, target: Target) -> Answer:
        self.opened += 1
        if self._hang_open:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        progress = Progress(exact=self._counts)
        stream = self._tell(call, progress)

        async def close() -> None:
            self.closed += 1
            await stream.aclose()

        return Answer(stream=stream, progress=progress, close=close)

    async def models(self) -> Sequence[ModelInfo]:
        return []

    async def probe(self) -> Health:
        return Health(True, "told")

    async def aclose(self) -> None:
        return


class Bodied(Telling):
    """Answers with a whole body."""

    def __init__(self, name: str, body: bytes, usage: Usage | None) -> None:
        self.name, self.opened, self.closed, self.cancelled = name, 0, 0, 0
        self._body, self._usage = body, usage

    async def open(self, call: Call, target: Target) -> Answer:
        self.opened += 1

        async def close() -> None:
            self.closed += 1

        return Answer(body=self._body, usage=self._usage, close=close)


class Spine:
    """A gateway over backends; keeps what was logged. Model `m` goes to all of them, in order."""

    rest_s = BreakerSettings().pause_s
    """How long a target that is overloaded is left alone the first time."""

    def __init__(
        self,
        folder: Path,
        backends: Sequence[Backend] | None = None,
        *,
        script: Script | None = None,
        settings: AdmissionSettings | None = None,
        limits: KeyLimits | None = None,
        limiter: Limiter | None = None,
        principal: Principal | None = None,
    ) -> None:
        self.clock: Clock = SystemClock()
        self.lines: list[dict[str, Any]] = []
        self.text = ""
        rng = random.Random(7)
        self.metrics = Metrics()
        self.journal = Journal(folder / "ledger")
        self.limiter = MemoryLimiter(self.clock) if limiter is None else limiter
        self.spent: dict[str, int] = {}
        """What the ledger is taken to know, in nanodollars by project."""
        log = Log(self.clock, "debug", self._keep)
        self.meter = Meter(
            self.clock,
            Ids(self.clock, rng),
            PriceTable(PriceBook("v1", (PRICED,))),
            self.journal,
            self.metrics,
            log,
        )
        self.principal = principal or Principal("key_1", "acme", frozenset({"inference"}), limits=limits or KeyLimits())
        self.auth = Auth(self.clock, SECRET, KeyTable(1, {hash_key(SECRET, KEY): self.principal}))
        given = list(backends) if backends is not None else [ScriptedBackend(self.clock, name="a", script=script)]
        self.backends: Mapping[str, Backend] = {backend.name: backend for backend in given}
        health = HealthConfig(breaker=BreakerSettings(pause_s=self.rest_s))
        config = Config(admission=settings or AdmissionSettings(), retries=AT_ONCE, health=health)
        self.path = pathway(config, self.auth, self.limiter, self._sums, self.meter, rng)
        self.gateway = self.path.gateway
        self.path.upstreams.use(self.backends, {})
        self.admission = self.gateway.admission
        self.rule(Rules())

    def rule(self, rules: Rules, *, shared: bool = False) -> "Spine":
        """The rules of its route. Its backends share the calls, or all but the first are fallbacks."""
        first, *others = [Target(name, "m") for name in self.backends]
        own, fallbacks = ((first, *others), ()) if shared else ((first,), tuple(others))
        self.gateway.routes = RouteTable(1, {"m": Route("m", own, fallbacks, rules=rules)})
        return self

    async def _sums(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        return [(self.spent.get(question.tenant or "", 0), 0) for question in questions]

    def _keep(self, line: str) -> None:
        self.text += line
        self.lines.append(json.loads(line))

    def call(self, model: str = "m", **more: Any) -> Call:
        return make_call(self.clock, model, **more)

    async def handle(self, **more: Any) -> Reply:
        return await self.gateway.handle(self.call(**more))

    async def whole(self, **more: Any) -> list[Event | bytes]:
        """One call from beginning to end, as the api does it. Raises what the call raises."""
        reply = await self.handle(**more)
        try:
            return await read(reply)
        finally:
            await reply.aclose()

    def done(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["event"] == "call.done"]

    def receipts(self) -> list[Receipt]:
        found: list[Receipt | None] = []
        for segment in self.journal.segments():
            found += decode(self.journal.read(segment, 0, 1 << 20)[0])
        assert None not in found
        return [receipt for receipt in found if receipt is not None]

    def at_rest(self) -> None:
        """Nothing of any call is left: no place, no queue, no answer, no task."""
        assert (self.admission.gate.active, self.admission.gate.waiting) == (0, 0)
        assert not any(self.path.gates.active().values())
        assert not any(self.path.gates.waiting().values())
        for backend in self.backends.values():
            if isinstance(backend, ScriptedBackend):
                assert backend.open_answers == 0
            if isinstance(backend, Telling):
                assert backend.closed + backend.cancelled == backend.opened
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def read(reply: Reply) -> list[Event | bytes]:
    if reply.stream is None:
        assert reply.body is not None
        return [reply.body]
    return [item async for item in reply.stream]


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Polls until it is true; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.001)


def fails(error: HeadgateError) -> Tell:
    """A stream that fails before its first piece."""
    return says(error)


def says(*items: Event | bytes | HeadgateError) -> Tell:
    """A stream of these; an error is raised in its place."""

    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        for item in items:
            if isinstance(item, HeadgateError):
                raise item
            progress.output_tokens += 1
            yield item

    return tell


def hangs(*items: Event | bytes) -> Tell:
    """These, then nothing for ever."""

    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        for item in items:
            progress.output_tokens += 1
            yield item
        await asyncio.get_running_loop().create_future()

    return tell
