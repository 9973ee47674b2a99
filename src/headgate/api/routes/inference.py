"""What chat, completions and embeddings share: a call is read, handed on, and its reply sent."""

from collections.abc import Callable
from functools import partial

from headgate.api.exchange import JSON, STREAM, Exchange
from headgate.api.once import answer_once
from headgate.api.relay import Pen, fold, relay
from headgate.api.resumed import answer_resumable
from headgate.api.services import Services
from headgate.api.wire.calls import Head, read_head
from headgate.api.wire.encoding import DONE, Encoder, Fold
from headgate.core.call import Call
from headgate.core.errors import BadCall, Bug, HeadgateError
from headgate.core.reply import Reply

SMALL_BODY = 64 * 1024
"""Larger bodies are read only from callers whose key is good."""

Read = Callable[[Head, bytes], Call]
MakeEncoder = Callable[[str, int, Call, str], Encoder]
MakeFold = Callable[[str, int, Call, str], Fold]


class Shape:
    """How one operation's calls are read and its answers encoded. `prefix` begins the answers' ids."""

    def __init__(
        self, read: Read, prefix: str, encoder: MakeEncoder | None = None, fold_maker: MakeFold | None = None
    ) -> None:
        self.read = read
        self.prefix = prefix
        self.encoder = encoder
        self.fold = fold_maker


async def answer(exchange: Exchange, shape: Shape) -> None:
    """Raises `HeadgateError`; the reply is closed exactly once in every case, before the answer's last byte."""
    call = await _read(exchange, shape.read)
    produce = partial(_produce, exchange.services, exchange.settings.heartbeat_s, shape)
    if call.idempotency_key is not None:
        await answer_once(exchange, call, produce)
        return
    if call.stream and await answer_resumable(exchange, call, produce):
        return
    exchange.called = True
    reply = await exchange.services.gateway.handle(call)
    reason: HeadgateError | None = None
    try:
        last = await _send(exchange, shape, call, reply)
    except HeadgateError as error:
        reason = error
        raise
    finally:
        await reply.aclose(reason)
    if call.stream:
        await exchange.sink.end(last)
    else:
        await exchange.send(last, reply.status, (JSON, *reply.headers))


async def _read(exchange: Exchange, read: Read) -> Call:
    """A caller without a good key learns that, and not what is wrong with the body."""
    request = exchange.request
    limit = int(exchange.settings.max_body_mb * 1024 * 1024)
    length = request.header(b"content-length")
    if length is None or len(length) > 5 or int(length) > SMALL_BODY:
        exchange.principal("inference")
    try:
        head = read_head(request, exchange.request_id, exchange.settings, exchange.services.clock)
        return read(head, await exchange.body(limit))
    except BadCall:
        exchange.principal("inference")
        raise


async def _send(exchange: Exchange, shape: Shape, call: Call, reply: Reply) -> bytes:
    """Everything but the last bytes, which are given back."""
    if call.stream:
        exchange.sink.start(reply.status, exchange.headers(*STREAM, *reply.headers))
        exchange.streaming = True
    return await _produce(exchange.services, exchange.settings.heartbeat_s, shape, call, reply, exchange.sink)


async def _produce(services: Services, heartbeat_s: float, shape: Shape, call: Call, reply: Reply, pen: Pen) -> bytes:
    """Encodes a reply; all but the last bytes are written, those are given back."""
    if not call.stream and reply.body is not None:
        return reply.body
    if reply.stream is None or shape.encoder is None or shape.fold is None:
        raise Bug("The reply is not of the kind that was asked for.")
    identity = (
        shape.prefix + call.id.partition("_")[2],
        int(services.clock.now()),
        call,
        f"headgate-{services.version}",
    )
    if not call.stream:
        return await fold(reply.stream, shape.fold(*identity))
    return await relay(reply.stream, shape.encoder(*identity), pen, heartbeat_s) + DONE
