"""Calls with an `Idempotency-Key`: each runs once, and everyone who sends it gets the same bytes.

The first caller's call runs in a task of its own, into a recording: it goes on when that caller leaves, so that the
retry of a client that lost patience joins it, or gets the finished answer, instead of paying twice. Only complete
answers are kept; after a refusal or a failure the same key runs anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from headgate.api.exchange import JSON, STREAM, Exchange
from headgate.api.recording import KEPT_HEADERS, Follower, Recording
from headgate.api.relay import Heartbeat
from headgate.api.runs import Run
from headgate.api.services import Services
from headgate.core.call import Call
from headgate.core.errors import Bug, Conflict, HeadgateError, Overloaded, UpstreamTimeout
from headgate.core.reply import Header, Reply
from headgate.core.tasks import finish
from headgate.ledger.idempotency.ask import Ask, Kept, make_ask, reused

REPLAY = b"x-headgate-idempotent-replay"
JOINED: Header = (REPLAY, b"joined")
REPLAYED: Header = (REPLAY, b"true")
LOOK_S, LOOK_S_MAX = 0.1, 0.3
"""How often a call that another replica runs is looked for."""
RETRY_S, RETRY_S_MAX = 0.5, 10.0
"""How often a finished run tries to tell the database, while that is away."""
RELEASE_S = 3.0
SLICE = 64 * 1024
"""Bytes of a kept stream written at once, so that memory stays bounded where the client is slow."""

T = TypeVar("T")
Produce = Callable[[Call, Reply, Recording], Awaitable[bytes]]
"""Writes all of a reply but its last bytes, and gives those."""


async def answer_once(exchange: Exchange, call: Call, produce: Produce) -> None:
    """Answers a call that has a key: runs it, joins it, or replays its answer. Raises `HeadgateError`."""
    services = exchange.services
    tenant = exchange.principal("inference").tenant
    ask = make_ask(call, tenant, call.deadline.remaining(services.clock))
    while True:
        run, first = await _enter(services, call, ask, produce)
        follower = run.recording.join()
        try:
            try:
                await _in_time(services, call, run.begun())
            finally:
                exchange.called = first and run.state == "here"  # then the run tells the log what becomes of it
            if run.state != "over":
                await _follow(exchange, call, run, follower, first and run.state == "here")
                return
        finally:
            services.runs.leave(run, follower)


async def _enter(services: Services, call: Call, ask: Ask, produce: Produce) -> tuple[Run, bool]:
    """The run of this key in this process, and whether it was made for this call. Raises `Conflict`."""
    while (run := services.runs.get(ask.slot)) is not None:
        if run.ask.fingerprint == ask.fingerprint:
            return run, False
        # Whose key it is shows with the claim: this body may be the first to have used it, in another replica.
        await _in_time(services, call, run.while_in("claiming"))
        if run.in_hand:
            services.runs.count("key_reused")
            raise reused()
    carry_out, ended = partial(_carry_out, services, call, produce), partial(_ended, services, call)
    return services.runs.start(ask, carry_out, ended), True


async def _in_time(services: Services, call: Call, wait: Awaitable[T]) -> T:
    try:
        async with call.deadline.within(services.clock):
            return await wait
    except TimeoutError as error:
        raise UpstreamTimeout(
            "The call's deadline passed before the model answered. Allow more time with x-headgate-timeout-s.",
            code="deadline_exceeded",
        ) from error


# The run


async def _carry_out(services: Services, call: Call, produce: Produce, run: Run) -> None:
    """The task of a run."""
    try:
        await _claim(services, run)
        if run.state == "here":
            await _run(services, call, produce, run)
    except asyncio.CancelledError:
        if run.state == "claiming":
            await _release(services, run)  # the claim may be there: nothing was sent for it
        raise
    except HeadgateError as error:
        if isinstance(error, Conflict):
            services.runs.count(str(error.code).removeprefix("idempotency_"))
        _over(services, run, error)


def _ended(services: Services, call: Call, run: Run, task: asyncio.Task[None]) -> None:
    """Whatever ends the task, whoever follows it learns it; a fault of ours is logged, since no caller may be there."""
    if task.cancelled():
        _over(services, run, Overloaded("The server is stopping; try again.", retry_after=1.0))
    elif (error := task.exception()) is not None:
        services.on_bug(call.id, error)
        _over(services, run, Bug(f"An internal error happened. Give this id when you report it: {call.id}."))


def _over(services: Services, run: Run, error: HeadgateError) -> None:
    services.runs.drop(run)
    run.recording.fail(error)
    run.become(run.state)


async def _claim(services: Services, run: Run) -> None:
    """Finds out whose the call is; where it is another's, waits until that has ended."""
    found = await services.runs.turns.take(run.ask)
    pause = LOOK_S
    while found == "elsewhere":
        if run.state == "claiming":
            run.become("elsewhere")
        await services.clock.sleep(pause)
        pause = min(pause * 1.2, LOOK_S_MAX)
        found = await services.runs.turns.look(run.ask)
    if isinstance(found, Kept):
        run.recording.replay(found.headers, found.content or b"")
        run.become("kept")
        services.runs.drop(run)
    elif found == "mine":
        run.become("here")
    else:
        services.runs.drop(run)
        run.become("over")


async def _run(services: Services, call: Call, produce: Produce, run: Run) -> None:
    services.runs.count("first")
    recording = run.recording
    try:
        last = await _perform(services, call, produce, recording)
    except HeadgateError as error:
        await _tell(services, run, partial(services.runs.turns.release, run.ask), partial(recording.fail, error))
        return
    except BaseException:
        await _release(services, run)
        raise
    kept = Kept(_about_the_answer(recording.headers or ()), recording.whole(last))
    await _tell(services, run, partial(services.runs.turns.finish, run.ask, kept), partial(recording.end, last))


async def _perform(services: Services, call: Call, produce: Produce, recording: Recording) -> bytes:
    """Gives the last bytes once the reply is closed: its receipt is written, its limits are settled."""
    reply = await services.gateway.handle(call)
    reason: HeadgateError | None = None
    try:
        recording.begin(reply.headers)
        return await produce(call, reply, recording)
    except HeadgateError as error:
        reason = error
        raise
    finally:
        await reply.aclose(reason)


async def _tell(
    services: Services, run: Run, write: Callable[[], Awaitable[None]], publish: Callable[[], None]
) -> None:
    """Tells the database, then the callers: whoever has seen the end can retry and will find what it says.

    A database that is away holds callers up for `WRITE_S` only; it is told later, and until then the run stays in hand.
    """
    clock, pause = services.clock, RETRY_S
    until = clock.monotonic() + services.runs.settings.keep_s
    told = False
    while True:
        try:
            await write()
            break
        except Overloaded:
            if not told:
                publish()
                told = True
            if clock.monotonic() > until:
                break
            await clock.sleep(pause)
            pause = min(pause * 2, RETRY_S_MAX)
    services.runs.drop(run)
    if not told:
        publish()


async def _release(services: Services, run: Run) -> None:
    """For a run that is ended from outside. Where the database is away too, the key's outcome stays unknown."""
    try:
        await finish(services.runs.turns.release(run.ask), RELEASE_S)
    except Overloaded:
        return


def _about_the_answer(headers: tuple[Header, ...]) -> tuple[Header, ...]:
    return tuple(header for header in headers if header[0].startswith(KEPT_HEADERS))


# Whoever follows it


async def _follow(exchange: Exchange, call: Call, run: Run, follower: Follower, first: bool) -> None:
    """Sends the answer from its beginning. All but the first caller are admitted before, as calls that cost nothing."""
    recording, services = run.recording, exchange.services
    if recording.headers is None:
        await recording.more(follower)  # raises why
    headers = recording.headers or ()
    if first:
        await _end(exchange, call, await _send(exchange, call, run, follower, headers), headers)
        return
    exchange.called = True
    kept = run.state == "kept"
    services.runs.count("replayed" if kept else "joined")
    reply = await services.gateway.replay(call)
    headers = (*reply.headers, *_about_the_answer(headers), REPLAYED if kept else JOINED)
    reason: HeadgateError | None = None
    try:
        last = await _send(exchange, call, run, follower, headers)
        reply.whole = True
    except HeadgateError as error:
        reason = error
        raise
    finally:
        await reply.aclose(reason)
    await _end(exchange, call, last, headers)


async def _send(exchange: Exchange, call: Call, run: Run, follower: Follower, headers: tuple[Header, ...]) -> bytes:
    """Everything but the last bytes, which are given back."""
    if not call.stream:
        await _next(exchange, call, run, follower)
        return run.recording.last or b""
    sink = exchange.sink
    sink.start(200, exchange.headers(*STREAM, *headers))
    exchange.streaming = True
    heart = Heartbeat(sink, exchange.settings.heartbeat_s)
    try:
        while data := await _next(exchange, call, run, follower):
            await sink.write(data)
            heart.wrote()
    finally:
        heart.stop()
    last = run.recording.last or b""
    rest = max(0, len(last) - 1) // SLICE * SLICE
    for place in range(0, rest, SLICE):  # no heartbeat here: it could come inside a frame
        await sink.write(last[place : place + SLICE])
    return last[rest:]


async def _next(exchange: Exchange, call: Call, run: Run, follower: Follower) -> bytes:
    services = exchange.services
    return await _in_time(services, call, run.recording.more(follower))


async def _end(exchange: Exchange, call: Call, last: bytes, headers: tuple[Header, ...]) -> None:
    if call.stream:
        await exchange.sink.end(last)
    else:
        await exchange.send(last, 200, (JSON, *headers))
