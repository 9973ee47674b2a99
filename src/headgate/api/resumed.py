"""Calls whose streams carry ids, and callers who come back for the rest with `Last-Event-ID`, to any process."""

import copy

import msgspec

from headgate.api.exchange import STREAM, Exchange
from headgate.api.relay import Heartbeat
from headgate.api.resume import About, Produce, Run, Streams, fingerprint
from headgate.api.wire import heads
from headgate.api.wire.calls import read_head
from headgate.api.wire.heads import EventId
from headgate.core.call import Call
from headgate.core.errors import Conflict, HeadgateError, NotFound, Overloaded, Refused, Truncated, UpstreamTimeout
from headgate.core.reply import Header, Reply
from headgate.core.request import PassthroughRequest
from headgate.core.streams import Gone, Page, stream_key

NAME = b"x-headgate-stream"
RESUMED: Header = (b"x-headgate-resumed", b"true")
WAIT_S = 2.0
"""How long one look into the store waits for more."""
LOOKS_S = (0.0, 0.1, 0.3)
"""When a stream that is not there is looked for: its first frame may reach its caller before the store."""
PAUSE_S = 0.2
_RESULTS = {"stream_not_found": "not_found", "streams_unavailable": "unavailable", "stream_lost": "lost"}
"""What the metrics call the ends that have a name of their own, by code."""


async def answer_resumable(exchange: Exchange, call: Call, produce: Produce) -> bool:
    """Answers a streaming call that resumes, or can be resumed. Whether it was one. Raises `HeadgateError`."""
    event = heads.last_event_id(exchange.request)
    if event is not None:
        await resume(exchange, call, event)
        return True
    streams = exchange.services.streams
    if not streams.wanted(heads.resumable(exchange.request)):
        return False
    tenant = exchange.principal("inference").tenant
    run = streams.start(call, tenant, exchange.services.gateway.handle, produce)
    if run is None:
        return False
    exchange.called = True
    try:
        await _listen(exchange, run)
    finally:
        streams.leave(run, exchange.sink.begun)
    return True


async def _listen(exchange: Exchange, run: Run) -> None:
    """Sends the answer as it comes, from memory."""
    tape, sink, place = run.tape, exchange.sink, run.tape.caller
    await tape.begun()
    if tape.headers is None or place is None:
        raise _own(tape.error)
    sink.start(200, exchange.headers(*STREAM, *tape.headers, (NAME, run.call.id.encode())))
    exchange.streaming = True
    heart = Heartbeat(sink, exchange.settings.heartbeat_s)
    try:
        frames, end = await tape.more(place)
        while not end:
            await sink.write(b"".join(frames))
            heart.wrote()
            frames, end = await tape.more(place)
    finally:
        heart.stop()
    if tape.error is not None and not sink.begun:
        raise _own(tape.error)  # nothing has left yet: the status can still say it
    if tape.caller is not place:
        raise Truncated(
            "This stream is followed on another connection by now, and this one took nothing of it for too long.",
            code="stream_moved",
        )
    await sink.end(b"".join(frames))


def _own(error: HeadgateError | None) -> HeadgateError:
    """Each caller's own: its traceback grows."""
    if error is None:
        return Truncated("The answer ended before it began. Try again.")
    own = copy.copy(error)
    own.__cause__ = error
    return own


# Coming back


async def resume(exchange: Exchange, call: Call | None, event: EventId) -> None:
    """Sends what comes after `event`. Without a call (a GET) the stream itself says what it is. Raises `HeadgateError`.

    It is a call of its own, which costs a request and nothing else.
    """
    streams = exchange.services.streams
    key = stream_key(exchange.principal("inference").tenant, event.stream)
    try:
        call, about = await _known(exchange, call, key, event)
        exchange.called = True
        # Admitted before it reads: whoever is refused must not count as following, which keeps the answer going.
        reply = await exchange.services.gateway.replay(call)
        last = await _answer(exchange, call, about, key, event, reply)
    except HeadgateError as error:
        streams.count_resumed(_RESULTS.get(str(error.code), "refused" if isinstance(error, Refused) else "cut"))
        raise
    streams.count_resumed("resumed")
    await exchange.sink.end(last)


async def _known(exchange: Exchange, call: Call | None, key: str, event: EventId) -> tuple[Call, About]:
    """The call that resumes, and what it resumes. Raises `NotFound`, `Conflict` or `Overloaded`."""
    about = await _find(exchange.services.streams, key)
    if about is None:
        raise _not_found(exchange.services.streams, event)
    if call is None:
        return _call(exchange, about), about
    if about.request != fingerprint(call):
        raise Conflict(
            f"Last-Event-ID names the stream of another request. Send the body of {event.stream} again, "
            f"or GET /v1/streams/{event.stream}, or leave Last-Event-ID out.",
            code="stream_of_another_request",
        )
    return call, about


async def _answer(exchange: Exchange, call: Call, about: About, key: str, event: EventId, reply: Reply) -> bytes:
    """Everything but the last frames, which are given back once the reply is closed."""
    streams = exchange.services.streams
    reason: HeadgateError | None = None
    try:
        try:
            page = await streams.store.read(key, event.number, 0.0)
        except Gone:
            raise _not_found(streams, event) from None
        headers = (*reply.headers, *about.headers_bytes(), (NAME, event.stream.encode()), RESUMED)
        exchange.sink.start(200, exchange.headers(*STREAM, *headers))
        exchange.streaming = True
        last = await _send(exchange, call, key, event.number, page)
        reply.whole = True
        return last
    except HeadgateError as error:
        reason = error
        raise
    finally:
        await reply.aclose(reason)


async def _find(streams: Streams, key: str) -> About | None:
    for pause in LOOKS_S:
        if pause:
            await streams.clock.sleep(pause)
        found = await streams.store.find(key)
        if found is not None:
            return msgspec.json.decode(found, type=About)
    return None


def _call(exchange: Exchange, about: About) -> Call:
    head = read_head(exchange.request, exchange.request_id, exchange.settings, exchange.services.clock)
    return Call(
        id=head.id,
        operation=about.operation,
        dialect="openai",
        model=about.model,
        body=PassthroughRequest(model=about.model, path="streams", input_tokens=0),
        raw=b"",
        stream=True,
        include_usage=False,
        deadline=head.deadline,
        received=head.received,
        credential=head.credential,
        client=head.client,
        client_request_id=head.client_request_id,
        retry_count=head.retry_count,
        session=head.session,
        priority=head.priority,
    )


async def _send(exchange: Exchange, call: Call, key: str, after: int, page: Page) -> bytes:
    """Everything but the last frames, which are given back."""
    sink = exchange.sink
    heart = Heartbeat(sink, exchange.settings.heartbeat_s)
    try:
        while not page.end:
            if page.frames:
                await sink.write(b"".join(page.frames))
                heart.wrote()
                after += len(page.frames)
            page = await _next(exchange, call, key, after)
            if page.lost:
                raise Truncated(
                    "The server that made this answer is gone, and the rest of it with it. Send the call anew, "
                    "without Last-Event-ID.",
                    code="stream_lost",
                )
    finally:
        heart.stop()
    return b"".join(page.frames)


async def _next(exchange: Exchange, call: Call, key: str, after: int) -> Page:
    """What comes next. A store that is away for less than a lease is waited for.

    So is a writer whose lease has lapsed: it may only have been cut off from the store, and takes it again.
    """
    streams = exchange.services.streams
    clock, lease_s = streams.clock, streams.settings.lease_s
    wait_s = min(WAIT_S, streams.settings.grace_s / 2)  # each look says that it is followed, for `grace_s` from then
    away_since = lost_since = None
    while True:
        try:
            async with call.deadline.within(clock):
                page = await streams.store.read(key, after, wait_s)
                if not page.lost:
                    return page
                lost_since = lost_since or clock.monotonic()
                if clock.monotonic() - lost_since > lease_s:
                    return page
                await clock.sleep(PAUSE_S)
        except TimeoutError as error:
            raise UpstreamTimeout(
                "This call's deadline passed before the answer ended. Resume it again, with more time "
                "(x-headgate-timeout-s).",
                code="deadline_exceeded",
            ) from error
        except Gone:
            raise Truncated(
                "The answer is longer than what is kept of it (streams.stream_mb), and its next part is gone. "
                "Send the call anew, without Last-Event-ID.",
                code="stream_lost",
            ) from None
        except Overloaded:
            away_since = away_since or clock.monotonic()
            if clock.monotonic() - away_since > lease_s:
                raise
            await clock.sleep(PAUSE_S)


def _not_found(streams: Streams, event: EventId) -> NotFound:
    return NotFound(
        f"There is no stream '{event.stream}' that can be resumed after {event.number}: it is kept for "
        f"{streams.settings.keep_s:g} s after its end, and only where its call asked for it. Send the call anew, "
        "without Last-Event-ID.",
        code="stream_not_found",
    )
