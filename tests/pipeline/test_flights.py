"""Identical calls in flight run once: same bytes for all, one attempt, and nobody but the tenant itself."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec import structs

from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.errors import HeadgateError, Truncated, Upstream
from headgate.core.events import Event, Finish, Text
from headgate.core.ports import Progress
from headgate.core.request import EmbeddingRequest
from headgate.core.rules import Rules
from headgate.core.usage import Usage
from headgate.pipeline.flights.likeness import cacheable, fingerprint
from headgate.pipeline.flights.shared import AHEAD, KEPT, LEAST, Memory
from tests.pipeline.flying import OTHER, Flying, start
from tests.pipeline.spine import Bodied, Telling, make_call, read, says, until

WORDS = (Text("one "), b'data: {"two":2}\n\n', Text("three"), Finish("stop"), Usage(input=3, output=3))


class Valve:
    """Tells its first piece once it is opened, then the others, each after its turn."""

    def __init__(self, *items: Event | bytes | HeadgateError) -> None:
        self.open = asyncio.Event()
        self.items = items

    async def __call__(self, call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        await self.open.wait()
        for item in self.items:
            if isinstance(item, HeadgateError):
                raise item
            progress.output_tokens += 1
            yield item
            await asyncio.sleep(0)


def test_a_hundred_identical_streams_run_once_and_all_get_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        valve = Valve(*WORDS)
        backend = Telling("a", valve)
        spine = Flying(tmp_path, [backend])
        tasks = [asyncio.create_task(spine.outcome()) for _ in range(100)]
        await until(lambda: spine.admission.gate.active == 100)
        valve.open.set()
        answers = await asyncio.gather(*tasks)
        assert backend.opened == 1
        assert all(items == list(WORDS) for _, items in answers)
        assert [headers[b"x-headgate-single-flight"] for headers, _ in answers].count(b"led") == 1
        assert all(headers[b"x-headgate-backend"] == b"a" for headers, _ in answers)
        (receipt,) = spine.receipts()
        assert (receipt.outcome, receipt.usage) == ("ok", Usage(input=3, output=3))
        assert [line["outcome"] for line in spine.done()] == ["ok"] * 100
        assert sorted(line["attempts"] for line in spine.done()) == [0] * 99 + [1]
        assert (spine.count("led"), spine.count("joined")) == (1, 99)
        spine.at_rest()

    asyncio.run(main())


def test_whole_answers_are_shared_as_they_are(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Bodied("a", b'{"whole": "answer"}', Usage(input=2, output=1))
        spine = Flying(tmp_path, [backend])
        answers = await asyncio.gather(*(spine.outcome(stream=False) for _ in range(20)))
        assert backend.opened == 1
        assert all(items == [b'{"whole": "answer"}'] for _, items in answers)
        assert len(spine.receipts()) == 1
        assert [line["outcome"] for line in spine.done()] == ["ok"] * 20
        spine.at_rest()

    asyncio.run(main())


def test_who_comes_late_gets_the_answer_from_its_beginning(tmp_path: Path) -> None:
    async def main() -> None:
        halfway = asyncio.Event()

        async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
            yield Text("one")
            await halfway.wait()
            yield Finish("stop")
            yield Usage(input=1, output=1)

        backend = Telling("a", tell)
        spine = Flying(tmp_path, [backend])
        first = await spine.handle()
        assert first.stream is not None
        assert await anext(first.stream) == Text("one")
        late = await spine.handle()
        halfway.set()
        assert await read(late) == [Text("one"), Finish("stop"), Usage(input=1, output=1)]
        await late.aclose()
        assert await read(first) == [Finish("stop"), Usage(input=1, output=1)]
        await first.aclose()
        assert backend.opened == 1
        spine.at_rest()

    asyncio.run(main())


def test_after_the_end_the_same_call_runs_anew(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", says(*WORDS))
        spine = Flying(tmp_path, [backend])
        for _ in range(3):
            assert (await spine.outcome())[0][b"x-headgate-single-flight"] == b"led"
        assert backend.opened == 3
        spine.at_rest()

    asyncio.run(main())


def test_tenants_never_share(tmp_path: Path) -> None:
    async def main() -> None:
        valve = Valve(*WORDS)
        backend = Telling("a", valve)
        spine = Flying(tmp_path, [backend])
        mine = asyncio.create_task(spine.outcome())
        theirs = asyncio.create_task(spine.outcome(credential=OTHER))
        await until(lambda: backend.opened == 2)
        valve.open.set()
        assert [(await task)[0][b"x-headgate-single-flight"] for task in (mine, theirs)] == [b"led", b"led"]
        assert sorted(receipt.tenant for receipt in spine.receipts()) == ["acme", "globex"]
        spine.at_rest()

    asyncio.run(main())


@pytest.mark.parametrize(
    "more",
    [{"temperature": 0.1}, {"temperature": None}, {"n": 2}, {"store": True}],
    ids=lambda more: next(iter(more)) + str(next(iter(more.values()))),
)
def test_what_may_differ_is_asked_for_each(tmp_path: Path, more: dict[str, object]) -> None:
    async def main() -> None:
        valve = Valve(*WORDS)
        backend = Telling("a", valve)
        spine = Flying(tmp_path, [backend])
        tasks = [asyncio.create_task(spine.outcome(**more)) for _ in range(3)]
        await until(lambda: backend.opened == 3)
        valve.open.set()
        answers = await asyncio.gather(*tasks)
        assert not any(b"x-headgate-single-flight" in headers for headers, _ in answers)
        spine.at_rest()

    asyncio.run(main())


def test_a_route_can_switch_it_off(tmp_path: Path) -> None:
    async def main() -> None:
        valve = Valve(*WORDS)
        backend = Telling("a", valve)
        spine = Flying(tmp_path, [backend], rules=Rules(single_flight=False))
        tasks = [asyncio.create_task(spine.outcome()) for _ in range(3)]
        await until(lambda: backend.opened == 3)
        valve.open.set()
        await asyncio.gather(*tasks)
        spine.at_rest()

    asyncio.run(main())


def test_what_is_the_same_is_the_bytes_and_what_shapes_the_answer() -> None:
    clock = SystemClock()
    call = make_call(clock, temperature=0)
    same = make_call(clock, temperature=0)
    assert fingerprint("t", call) == fingerprint("t", same)
    others = [
        make_call(clock, temperature=0, text="other"),
        make_call(clock, temperature=0, stream=False),
        structs.replace(call, include_usage=True),
        structs.replace(call, output_cap=7),
        structs.replace(call, dialect="anthropic"),
        structs.replace(call, operation="completion"),
        structs.replace(call, model="smaller"),
    ]
    assert len({fingerprint("t", one) for one in [call, *others]} | {fingerprint("u", call)}) == len(others) + 2
    embedding = structs.replace(call, operation="embedding", body=EmbeddingRequest(model="m", input="x"))
    assert cacheable(call)
    assert cacheable(embedding)
    assert not cacheable(structs.replace(call, idempotency_key="k"))
    assert not cacheable(structs.replace(embedding, idempotency_key="k"))
    assert not cacheable(structs.replace(embedding, operation="passthrough"))


def test_a_failure_of_the_upstream_is_everybodys_each_with_its_own_copy(tmp_path: Path) -> None:
    async def main() -> None:
        valve = Valve(Upstream("broken", code="upstream_error"))
        backend = Telling("a", valve)
        spine = Flying(tmp_path, [backend])
        tasks = [asyncio.create_task(spine.outcome()) for _ in range(5)]
        await until(lambda: spine.admission.gate.active == 5)
        valve.open.set()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, Upstream) and error.message == "broken" for error in errors)
        assert len({id(error) for error in errors}) == 5
        assert len(spine.receipts()) == backend.opened
        assert [(line["outcome"], line["status"]) for line in spine.done()] == [("failed", 502)] * 5
        spine.at_rest()

    asyncio.run(main())


def test_where_all_fail_everyone_is_told_what_was_tried_for_them(tmp_path: Path) -> None:
    async def main() -> None:
        valves = [Valve(Upstream("broken")), Valve(Upstream("broken too"))]
        spine = Flying(tmp_path, [Telling("a", valves[0]), Telling("b", valves[1])])
        tasks = await start(spine, 3)
        for valve in valves:
            valve.open.set()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, Upstream)
            assert dict(error.headers)[b"x-headgate-attempts"] == b"2"
            assert b"x-ratelimit-limit-requests" in dict(error.headers)
        spine.at_rest()

    asyncio.run(main())


def test_a_cut_stream_ends_for_all_in_the_error_and_never_as_success(tmp_path: Path) -> None:
    async def main() -> None:
        valve = Valve(Text("half"), Truncated("cut"))
        spine = Flying(tmp_path, [Telling("a", valve)], rules=Rules(recovery=()))
        tasks = await start(spine, 4)
        valve.open.set()
        for reply in await asyncio.gather(*tasks):
            assert reply.stream is not None
            assert await anext(reply.stream) == Text("half")
            with pytest.raises(Truncated) as caught:
                await anext(reply.stream)
            await reply.aclose(caught.value)
        assert [line["outcome"] for line in spine.done()] == ["failed"] * 4
        assert [receipt.outcome for receipt in spine.receipts()] == ["failed"]
        spine.at_rest()

    asyncio.run(main())


def test_the_slowest_holds_a_long_answer_back_and_memory_stays_bounded(tmp_path: Path) -> None:
    piece = b"x" * 16_384
    told = 0

    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        nonlocal told
        for _ in range(400):
            told += 1
            yield piece
        yield Usage(input=1, output=1)

    async def main() -> None:
        backend = Telling("a", tell)
        spine = Flying(tmp_path, [backend])
        slow, quick = await asyncio.gather(*(spine.handle() for _ in range(2)))
        assert slow.stream is not None
        reading = asyncio.create_task(read(quick))
        most = KEPT + AHEAD + 2 * len(piece)
        await until(lambda: told * len(piece) >= KEPT)
        for _ in range(200):
            await asyncio.sleep(0)
            assert spine.memory.used <= most
        assert told * len(piece) <= most, "the upstream is not read while the slow one stands still"
        late = await spine.handle()
        assert backend.opened == 2, "the beginning is gone: nobody can join any more"
        await late.aclose()
        count = 0
        async for item in slow.stream:
            count += isinstance(item, bytes)
            assert spine.memory.used <= most
        await slow.aclose()
        assert count == 400
        assert len(await reading) == 401
        await quick.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_one_who_stands_still_past_its_deadline_holds_nobody_back(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", says(*[b"x" * 16_384] * 200, Usage(input=1, output=1)))
        spine = Flying(tmp_path, [backend])
        quick = await spine.handle()
        still = await spine.handle(seconds=0.2)
        assert still.stream is not None
        assert len(await read(quick)) == 201
        with pytest.raises(HeadgateError) as caught:
            await read(still)
        assert caught.value.code == "deadline_exceeded"
        await still.aclose(caught.value)
        await quick.aclose()
        assert sorted(line["outcome"] for line in spine.done()) == ["failed", "ok"]
        spine.at_rest()

    asyncio.run(main())


def test_a_process_that_holds_much_keeps_no_beginnings_and_lets_no_stream_run_ahead(tmp_path: Path) -> None:
    told = 0

    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        nonlocal told
        for _ in range(200):
            told += 1
            yield b"x" * 2_000
        yield Usage(input=1, output=1)

    async def main() -> None:
        backend = Telling("a", tell)
        spine = Flying(tmp_path, [backend], memory=Memory(1_000))
        first = await spine.handle()
        assert first.stream is not None
        await anext(first.stream)
        for _ in range(100):
            await asyncio.sleep(0)
        assert told * 2_000 <= LEAST + 3 * 2_000
        second = await spine.handle()
        assert backend.opened == 2
        await second.aclose()
        assert len(await read(first)) == 200
        await first.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_an_urgent_call_does_not_wait_in_the_class_of_one_that_may_wait(tmp_path: Path) -> None:
    async def main() -> None:
        valve = Valve(*WORDS)
        backend = Telling("a", valve)
        spine = Flying(tmp_path, [backend])
        batch = structs.replace(spine.call(temperature=0), priority="batch")
        tasks = [asyncio.create_task(spine.gateway.handle(batch)), asyncio.create_task(spine.handle())]
        await until(lambda: backend.opened == 2)
        valve.open.set()
        for task in tasks:
            await (await task).aclose()
        spine.at_rest()

    asyncio.run(main())
