"""Many streams at once through one worker: every byte right, memory bounded, nothing left behind."""

import asyncio
import json
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
    bodies = [chat("ok:ms=60", own_text(number), stream=True) for number in range(count)]
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
                transport: Any = vars(answer.reader)["_transport"]
                transport.pause_reading()
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


def marked(number: int) -> dict[str, Any]:
    """A call whose answer says whose it is."""
    rng = random.Random(number)
    model = rng.choice(["ok", "scripted"])
    return chat(
        model, f"this is call {number} and no other, " + "so it is " * rng.randrange(30), stream=rng.random() < 0.5
    )


async def ask_or_leave(live: Live, number: int, room: asyncio.Semaphore) -> bool:
    """True where the answer was read whole, and was this caller's own. One in five leaves at a random moment."""
    body = marked(number)
    rng = random.Random(-number)
    patience = rng.uniform(0.0, 0.02) if rng.random() < 0.2 else 60.0
    async with room:
        try:
            async with asyncio.timeout(patience):
                async with ask(live.port, live.key, body) as answer:
                    heard = await answer.body()
        except TimeoutError:
            return False
    text = said(heard) if body["stream"] else json.loads(heard)["choices"][0]["message"]["content"]
    assert text == body["messages"][0]["content"]
    return True


def said(stream: bytes) -> str:
    frames = [frame.removeprefix("data: ") for frame in stream.decode().split("\n\n")[:-2]]
    return "".join(json.loads(frame)["choices"][0]["delta"].get("content") or "" for frame in frames)


def answers_reach_who_asked(live: Live, count: int) -> None:
    async def all_of_them() -> list[bool]:
        room = asyncio.Semaphore(40)
        return await asyncio.gather(*(ask_or_leave(live, number, room) for number in range(1, count + 1)))

    whole = asyncio.run(all_of_them())
    print(f"{sum(whole)} of {count} answers read whole, each its caller's own")
    assert count * 0.7 <= sum(whole) < count
    live.settle()


def test_no_answer_reaches_another_caller_when_some_leave(gate: Live) -> None:
    answers_reach_who_asked(gate, 1_000)


@pytest.mark.prove
def test_no_answer_of_twenty_thousand_reaches_another_caller_when_some_leave(gate: Live) -> None:
    answers_reach_who_asked(gate, 20_000)


@pytest.mark.parametrize("model", ["ok", "scripted"])
def test_leaving_after_any_number_of_bytes_ends_the_call_once(gate: Live, model_server: str, model: str) -> None:
    body = chat(model, "hello to you", stream=True)

    async def length() -> int:
        async with ask(gate.port, gate.key, body) as answer:
            return len(await answer.body())

    async def leave_after(count: int) -> str:
        async with ask(gate.port, gate.key, body) as answer:
            await answer.reader.readexactly(count)
            return answer.request_id

    async def at_every_byte() -> list[str]:
        ids: list[str] = []
        places = range(0, await length(), 5)
        for start in range(0, len(places), 30):
            ids += await asyncio.gather(*(leave_after(count) for count in places[start : start + 30]))
        return ids

    ids = asyncio.run(at_every_byte())
    assert len(ids) > 100
    gate.settle()
    until(lambda: get(model_server, "/stats")["open"] == 0)
    done = [line["request_id"] for line in gate.events("call.done")]
    assert [done.count(id_) for id_ in ids] == [1] * len(ids)
