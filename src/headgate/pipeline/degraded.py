"""What a call is given where no target answers, if its route has something: a kept answer, or a fixed message."""

from collections.abc import AsyncGenerator, Iterable
from typing import Literal

from headgate.core.clock import Clock
from headgate.core.errors import Bug, HeadgateError
from headgate.core.events import Event, Finish, Stream, Text
from headgate.core.faults import ErrorClass, classify
from headgate.core.reply import Reply
from headgate.core.request import ChatRequest, CompletionRequest, prompts
from headgate.core.rules import Rules
from headgate.core.usage import Usage
from headgate.pipeline.admission import Lease
from headgate.pipeline.flights.likeness import fingerprint
from headgate.pipeline.kept_answers import ITEM, Kept, KeptAnswers, weight
from headgate.pipeline.meter import Story

Level = Literal["cached", "message"]

KEPT = 64 * 1024 * 1024
"""Bytes of all kept answers together; the oldest go first."""
ANSWER = 1024 * 1024
"""Bytes of one; a longer one is not kept."""
_FOR: frozenset[ErrorClass] = frozenset({"overload", "timeout", "upstream", "auth"})
"""Failures that are none of the caller's making. What a model refuses, or cannot take, is told as it is."""


class Degraded:
    """Answers are kept in this process, for the tenant that was given them and the very same bytes of a request."""

    def __init__(self, clock: Clock, limit: int = KEPT) -> None:
        self._clock = clock
        self.kept = KeptAnswers(limit)

    def serve(self, rules: Rules, lease: Lease, reply: Reply, story: Story, error: HeadgateError) -> Level | None:
        """Fills `reply` where the route allows it for this error, and says from where; the call is `ok` then.

        None: the error is to be told. Never once an answer has begun, nor for a call with an idempotency key, whose
        answer would stay for every retry.
        """
        degraded, principal = rules.degraded, story.principal
        if degraded is None or principal is None or lease.call.idempotency_key is not None:
            return None
        if reply.body is not None or reply.stream is not None or isinstance(error, Bug) or classify(error) not in _FOR:
            return None
        level: Level
        if degraded.cached_s and self._again(principal.tenant, lease, reply, degraded.cached_s):
            level = "cached"
        elif degraded.message is not None and (choices := _choices(lease)):
            level = "message"
            reply.stream = stream = _passing(_spoken(degraded.message, choices))
            reply.own(stream.aclose)
        else:
            return None
        reply.headers.append((b"x-headgate-level", level.encode()))
        story.complete()
        story.meter.metrics.degraded(level)
        return level

    def keep(self, rules: Rules, lease: Lease, reply: Reply, story: Story) -> None:
        """After a good answer has begun: once it is complete it is kept, where the route wants that."""
        degraded, principal = rules.degraded, story.principal
        if degraded is None or not degraded.cached_s or principal is None or lease.call.idempotency_key is not None:
            return
        key = fingerprint(principal.tenant, lease.call)
        if reply.body is not None:
            self._put(key, degraded.cached_s, len(reply.body) + ITEM, body=reply.body)
        elif reply.stream is not None:
            reply.stream = stream = self._watch(key, degraded.cached_s, reply.stream)
            reply.own(stream.aclose)

    def _again(self, tenant: str, lease: Lease, reply: Reply, cached_s: float) -> bool:
        now = self._clock.monotonic()
        kept = self.kept.get(fingerprint(tenant, lease.call), now, cached_s)
        if kept is None:
            return False
        if kept.body is not None:
            reply.body = kept.body
        else:
            reply.stream = stream = _passing(kept.items)
            reply.own(stream.aclose)
        reply.headers.append((b"age", b"%d" % (now - kept.at)))
        return True

    async def _watch(self, key: bytes, cached_s: float, stream: Stream) -> AsyncGenerator[Event | bytes]:
        """Passes it on. One that ends without raising is complete."""
        items: list[Event | bytes] = []
        size = ITEM
        async for item in stream:
            if size <= ANSWER:
                items.append(item)
                size += weight(item)
                if size > ANSWER:
                    items.clear()
            yield item
        self._put(key, cached_s, size, items=tuple(items))

    def _put(
        self, key: bytes, cached_s: float, size: int, body: bytes | None = None, items: tuple[Event | bytes, ...] = ()
    ) -> None:
        if size <= ANSWER:
            now = self._clock.monotonic()
            self.kept.put(key, Kept(now, now + cached_s, size, body, items))


def _choices(lease: Lease) -> int:
    """How many times the message is to be said; 0 where it cannot stand for the answer: an embedding, or one that a
    program will read.
    """
    body = lease.call.body
    if isinstance(body, ChatRequest):
        wants_tool = not (body.tool_choice is None or body.tool_choice in ("none", "auto"))
        return 0 if body.formed or wants_tool else body.n or 1
    if isinstance(body, CompletionRequest):
        return 0 if body.formed else (body.n or 1) * len(prompts(body.prompt))
    return 0


def _spoken(message: str, choices: int) -> Iterable[Event]:
    for index in range(choices):
        yield Text(message, index)
        yield Finish("stop", index)
    yield Usage()


async def _passing(items: Iterable[Event | bytes]) -> AsyncGenerator[Event | bytes]:  # noqa: RUF029 a stream is async
    for item in items:
        yield item
