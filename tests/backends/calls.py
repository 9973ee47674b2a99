"""Calls, backends and checks that the tests of this folder share."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec

from headgate.backends.http.address import Resolver, resolve
from headgate.backends.http.pool import PoolSettings
from headgate.backends.openai import OpenAIBackend, OpenAISettings
from headgate.core.call import Call, Operation
from headgate.core.clock import SystemClock
from headgate.core.deadline import Deadline, Timeouts
from headgate.core.errors import HeadgateError
from headgate.core.ports import Answer
from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest
from headgate.core.target import Target
from tests.upstream.process import get

CLOCK = SystemClock()
TYPES = {"chat": ChatRequest, "completion": CompletionRequest, "embedding": EmbeddingRequest}
FAST = Timeouts(connect_s=2.0, first_token_s=5.0, between_tokens_s=5.0, total_s=20.0)


def call(model: str = "ok", *, operation: Operation = "chat", seconds: float = 20.0, **fields: Any) -> Call:
    """A call whose raw body is what a client would send."""
    body: dict[str, Any] = {"model": model}
    if operation == "chat":
        body["messages"] = [{"role": "user", "content": "Good evening, Zürich 🌇"}]
    elif operation == "completion":
        body["prompt"] = "Once"
    else:
        body["input"] = "Once"
    body.update(fields)
    raw = json.dumps(body).encode()
    decoded = msgspec.json.decode(raw, type=TYPES[operation])
    options = body.get("stream_options") or {}
    return Call(
        id="req_1",
        operation=operation,
        dialect="openai",
        model=model,
        body=decoded,
        raw=raw,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        deadline=Deadline.after(CLOCK, seconds),
        received=CLOCK.monotonic(),
    )


def target(model: str) -> Target:
    return Target("up", model)


def backend(
    base_url: str,
    *,
    timeouts: Timeouts = FAST,
    pool: PoolSettings | None = None,
    resolver: Resolver = resolve,
    **more: Any,
) -> OpenAIBackend:
    settings = OpenAISettings(name="up", base_url=base_url, timeouts=timeouts, pool=pool or PoolSettings(), **more)
    return OpenAIBackend(settings, CLOCK, resolver)


async def collect(answer: Answer) -> tuple[bytes, list[Any], HeadgateError | None]:
    """The bytes and the events of a stream, and what it ended with."""
    assert answer.stream is not None
    data, events = b"", []
    try:
        async for item in answer.stream:
            if isinstance(item, bytes):
                data += item
            else:
                events.append(item)
    except HeadgateError as error:
        return data, events, error
    finally:
        await answer.aclose()
    return data, events, None


async def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    """Polls until it is true; fails the test after `seconds`."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


async def until_idle(up: OpenAIBackend) -> None:
    await until(lambda: up.counts.active == 0 and up.counts.waiting == 0)


async def stats(base_url: str) -> dict[str, int]:
    return await asyncio.to_thread(get, base_url, "/stats")


async def until_stats(base_url: str, true: Callable[[dict[str, int]], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not true(await stats(base_url)):
            await asyncio.sleep(0.01)
