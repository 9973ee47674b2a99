"""`POST /passthrough/{backend}/{path}`: a backend's own endpoints, for which Headgate has none of its own.

The call goes the way of every other call; only its target is given by the URL, and its answer passes as it came.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from headgate.api.application import Route
from headgate.api.exchange import JSON, STREAM, Exchange
from headgate.api.http import Sink
from headgate.api.once import answer_once
from headgate.api.relay import Pen, relay
from headgate.api.wire.calls import passthrough_call, read_head
from headgate.api.wire.encoding import DONE
from headgate.backends.openai import CONTENT_TYPE, PATHS
from headgate.core.call import Call
from headgate.core.errors import BadCall, Bug, HeadgateError, NotFound
from headgate.core.events import Event, Finish, Stream
from headgate.core.reply import Header, Reply

PREFIX = "/passthrough/"
PATH_MAX = 256
_PATH = re.compile(r"[A-Za-z0-9._/-]+")
OPEN_ENDED = frozenset({"batches", "evals", "fine_tuning", "organization", "realtime", "threads"})
"""Parts of a path whose work goes on after the answer, or that hand out keys: what they cost could not be counted."""


async def _create(exchange: Exchange) -> None:
    """Raises `HeadgateError`; the reply is closed exactly once in every case, before the answer's last byte."""
    exchange.principal("inference")  # a stranger learns nothing of the backends, and his body is not read
    if not exchange.settings.passthrough:
        raise NotFound("Passthrough is switched off here (server.passthrough).", code="passthrough_off")
    if exchange.request.query:
        raise BadCall("The query is not passed on; what each call needs belongs in the backend's 'query'.")
    backend, _, path = exchange.request.path.removeprefix(PREFIX).partition("/")
    check_path(path)
    exchange.sink = _Typed(exchange.sink)
    head = read_head(exchange.request, exchange.request_id, exchange.settings, exchange.services.clock)
    call = passthrough_call(backend, path, head, await exchange.body(int(exchange.settings.max_body_mb * 1024 * 1024)))
    if call.idempotency_key is not None:
        await answer_once(exchange, call, partial(_produce, exchange.settings.heartbeat_s))
        return
    exchange.called = True
    reply = await exchange.services.gateway.handle(call)
    reason: HeadgateError | None = None
    try:
        if call.stream:
            exchange.sink.start(reply.status, exchange.headers(*STREAM, *reply.headers))
            exchange.streaming = True
        last = await _produce(exchange.settings.heartbeat_s, call, reply, exchange.sink)
    except HeadgateError as error:
        reason = error
        raise
    finally:
        await reply.aclose(reason)
    if call.stream:
        await exchange.sink.end(last)
    else:
        await exchange.send(last, reply.status, (JSON, *reply.headers))


def check_path(path: str) -> None:
    """Raises `BadCall` for a path that could leave the backend's base URL, `NotFound` for one that is not passed on.

    The path has been percent-decoded once; what was encoded twice still holds a percent sign, and is refused.
    """
    parts = path.split("/")
    if len(path) > PATH_MAX or not _PATH.fullmatch(path) or any(not part.strip(".") for part in parts):
        raise BadCall(
            f"What follows the backend's name has at most {PATH_MAX} of the characters A-Z a-z 0-9 . _ / -, "
            "and no part that is empty or only dots.",
            code="invalid_path",
        )
    low = path.lower()
    if "/" + low in PATHS.values():
        raise NotFound(f"There is an endpoint for this: POST /v1/{low}.", code="unknown_url")
    closed = OPEN_ENDED.intersection(low.split("/"))
    if closed:
        raise NotFound(
            f"'{min(closed)}' is not passed through: what it goes on to use could not be counted. "
            "Ask your administrator.",
            code="unknown_url",
        )


async def _produce(heartbeat_s: float, call: Call, reply: Reply, pen: Pen) -> bytes:
    """All but the last bytes are written, those are given back."""
    if not call.stream and reply.body is not None:
        return reply.body
    if not call.stream or reply.stream is None:
        raise Bug("The reply is not of the kind that was asked for.")
    frames = _Frames()
    async with aclosing(frames.watch(reply.stream)) as stream:
        return await relay(stream, frames, pen, heartbeat_s)


class _Frames:
    """An `Encoder` of streams that come as frames: it only knows whether `[DONE]` stood at their end."""

    def __init__(self) -> None:
        self._done = False

    async def watch(self, stream: Stream) -> AsyncGenerator[Event | bytes]:
        async for item in stream:
            self._done = self._done or isinstance(item, Finish)
            yield item

    def frames(self, event: Event) -> bytes:
        return b""

    def tail(self, raw: bool) -> bytes:
        return DONE if self._done else b""


class _Typed:
    """A `Sink` under which an answer has the content type that the model server gave it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @property
    def begun(self) -> bool:
        return self._sink.begun

    @property
    def ended(self) -> bool:
        return self._sink.ended

    @property
    def gone(self) -> bool:
        return self._sink.gone

    def start(self, status: int, headers: Sequence[Header]) -> None:
        kind = next((value for name, value in headers if name == CONTENT_TYPE), None)
        if kind is not None:
            rest = [header for header in headers if header[0] not in {CONTENT_TYPE, b"content-type"}]
            headers = [*rest, (b"content-type", kind), (b"x-content-type-options", b"nosniff")]
        self._sink.start(status, headers)

    async def write(self, data: bytes) -> None:
        await self._sink.write(data)

    async def end(self, data: bytes = b"") -> None:
        await self._sink.end(data)

    def nudge(self, data: bytes) -> None:
        self._sink.nudge(data)


ROUTES = (
    Route(
        method="POST",
        path=PREFIX + "{backend}/{path}",
        endpoint=_create,
        scope="inference",
        summary="A backend's own endpoint, for what there is no endpoint for here.",
        streams=True,
    ),
)
