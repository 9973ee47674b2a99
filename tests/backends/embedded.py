"""Asks an embedded backend on a model folder, as the pipeline would."""

import asyncio
import json
import random
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from headgate.backends.embedded import EmbeddedBackend
from headgate.core.call import Body, Call
from headgate.core.clock import SystemClock
from headgate.core.deadline import Deadline
from headgate.core.events import Event, Finish, Text
from headgate.core.ids import Ids
from headgate.core.ports import Answer
from headgate.core.request import ChatRequest, CompletionRequest
from headgate.core.target import Target
from headgate.core.usage import Usage
from headgate.engine.front.client import EngineClient

CLOCK = SystemClock()
HELLO = [{"role": "user", "content": "the weather in Bern"}]
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


class Asker:
    """Sends bodies to a backend as the pipeline would."""

    def __init__(self, backend: EmbeddedBackend) -> None:
        self.backend = backend
        self.ids = Ids(CLOCK, random.Random(1))

    async def open(self, kind: type[Body], model: str = "tiny", **body: Any) -> Answer:
        raw = json.dumps({"model": model, **body}).encode()
        call = Call(
            id=self.ids.new("req"),
            operation="chat",
            dialect="openai",
            model=model,
            body=msgspec.json.decode(raw, type=kind),
            raw=raw,
            stream=True,
            include_usage=True,
            deadline=Deadline.after(CLOCK, 60),
            received=CLOCK.monotonic(),
        )
        return await self.backend.open(call, Target("embedded", model))

    async def chat(self, **body: Any) -> list[Event]:
        return await events(await self.open(ChatRequest, **{"messages": HELLO, "max_tokens": 30, **body}))

    async def complete(self, **body: Any) -> list[Event]:
        return await events(await self.open(CompletionRequest, **body))


async def events(answer: Answer) -> list[Event]:
    assert answer.stream is not None
    out: list[Event] = []
    async for event in answer.stream:
        assert not isinstance(event, bytes)
        out.append(event)
    await answer.aclose()
    usage = out[-1]
    assert isinstance(usage, Usage)
    assert sum(isinstance(event, Usage) for event in out) == 1
    assert (usage.input, usage.output) == (answer.progress.input_tokens, answer.progress.output_tokens)
    assert answer.progress.exact
    return out


def text(out: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in out if isinstance(event, Text) and event.index == index)


def reason(out: list[Event], index: int = 0) -> str:
    (finish,) = [event.reason for event in out if isinstance(event, Finish) and event.index == index]
    return finish


def run(folder: Path, work: Callable[[Asker], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        engine = await EngineClient.start(folder, clock=CLOCK)
        backend = EmbeddedBackend("embedded", engine, clock=CLOCK, ids=Ids(CLOCK, random.Random(2)))
        try:
            await work(Asker(backend))
        finally:
            await backend.aclose()

    asyncio.run(asyncio.wait_for(main(), 90))
