"""Many streams at once through one worker: every byte right, memory bounded, nothing left behind."""

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from tests.live import Live, until
from tests.load.client import ask, chat, told_by_upstream
from tests.upstream.process import get


def own_text(number: int) -> str:
    """About forty pieces that only this stream may see."""
    rng = random.Random(number)
    return f"stream {number}: " + "".join(rng.choice("abcdefghij é東☕") for _ in range(100))


async def one_stream(live: Live, body: dict[str, Any], begun: asyncio.Barrier) -> bytes:
    async with ask(live.port, live.key, body) as answer:
        first = await answer.piece()
        await begun.wait()
        return first + await answer.body()


async def at_once(live: Live, count: int) -> float:
    """All streams are open before any goes on. Gives the gateway's peak of memory in MB."""
    bodies = [chat("ok:ms=120", own_text(number), stream=True) for number in range(count)]
    begun = asyncio.Barrier(count)
    told = await asyncio.gather(*(one_stream(live, body, begun) for body in bodies))
    for body, heard in zip(bodies, told, strict=True):
        assert heard == told_by_upstream(body)
    return live.rss_mb()


def streams_finish(live: Live, model_server: str, count: int) -> None:
    asyncio.run(at_once(live, 20))  # what a first call allocates is not what a stream costs
    before = live.rss_mb()
    peak = asyncio.run(at_once(live, count))
    print(f"{count} streams: {before:.1f} MB before, {peak:.1f} MB at their end")
    assert peak - before < 8 + count * 0.15
    live.settle()
    until(lambda: get(model_server, "/stats")["open"] == 0)


def test_a_hundred_streams_at_once_are_right_to_the_byte(gate: Live, model_server: str) -> None:
    streams_finish(gate, model_server, 100)


@pytest.mark.prove
def test_five_hundred_streams_at_once_are_right_to_the_byte(gate: Live, model_server: str) -> None:
    streams_finish(gate, model_server, 500)


def leaving(number: int) -> dict[str, Any]:
    """Calls that would go on for long: at an upstream, at the engine, at a script; streamed or whole."""
    stream = number % 5 != 0
    match number % 4:
        case 0:
            return chat("headgate-demo", "go on", stream=stream, max_tokens=1500, temperature=2, ignore_eos=True)
        case 1:
            return chat("scripted", "go on", stream=stream, metadata={"script": '{"tokens": 3, "never_finish": true}'})
        case 2:
            return chat("stall" if stream else "slow_head", "go on", stream=stream)
        case _:
            return chat("ok:tokens=5000,ms=20", "go on", stream=True)


async def leave(live: Live, number: int) -> None:
    """Before the head, at it, or some pieces later."""
    pieces = random.Random(number).randint(-1, 6)
    with suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.3 if pieces < 0 else 3.0):
            async with ask(live.port, live.key, leaving(number)) as answer:
                for _ in range(pieces):
                    await answer.piece()


def test_two_hundred_clients_that_leave_leave_nothing_behind(gate: Live, model_server: str) -> None:
    gate.settle()
    known = len(gate.events("call.done"))
    upstream_known = get(model_server, "/stats")["requests"]

    async def all_of_them() -> None:
        await asyncio.gather(*(leave(gate, number) for number in range(200)))

    asyncio.run(all_of_them())
    gate.settle(20.0)
    until(lambda: get(model_server, "/stats")["open"] == 0, tell=lambda: get(model_server, "/stats"))
    assert get(model_server, "/stats")["requests"] - upstream_known <= 100
    done = gate.events("call.done")[known:]
    assert len({line["request_id"] for line in done}) == len(done)
    assert 150 <= len(done) <= 200
    assert [
        (x["model"], x["stream"], x["status"], x["output_tokens"]) for x in done if x["outcome"] != "cancelled"
    ] == []
    assert gate.events("bug") == []
    assert gate.gauge("headgate_bugs_total") == 0


def test_readers_that_stop_reading_cost_bounded_memory_and_stall_the_upstream(gate: Live, model_server: str) -> None:
    async def hold() -> None:
        async def one(begun: asyncio.Barrier, over: asyncio.Event) -> None:
            async with ask(gate.port, gate.key, chat("endless", "go", stream=True), receive_buffer=4096) as answer:
                answer.reader._transport.pause_reading()  # type: ignore[attr-defined]
                await begun.wait()
                await over.wait()

        begun, over = asyncio.Barrier(21), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(one(begun, over))
            await begun.wait()
            await asyncio.to_thread(until, stalled, 15.0)
            grown = gate.rss_mb() - before
            print(f"20 readers that stopped: {grown:.1f} MB more")
            over.set()
            assert grown < 30

    def stalled() -> bool:
        sent = get(model_server, "/stats")["sent"]
        asyncio.run(asyncio.sleep(0.5))
        return bool(get(model_server, "/stats")["sent"] == sent)

    gate.settle()
    before = gate.rss_mb()
    asyncio.run(hold())
    gate.settle()
    until(lambda: get(model_server, "/stats")["open"] == 0)
