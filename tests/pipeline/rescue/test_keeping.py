"""What is kept is bounded, what is open is closed, and a beginning is held back no longer than said."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from headgate.core.events import Finish, Stream, Text
from headgate.core.rules import HoldBack
from headgate.core.usage import Usage
from headgate.pipeline.rescue.hold_back import hold_back
from headgate.pipeline.rescue.rescue import close, rescued
from headgate.pipeline.rescue.sent import CHARS_MAX, KEPT_BYTES_MAX, Sent
from tests.clock import VirtualClock
from tests.pipeline.rescue.answers import BOTH, CUT, Attempts, Item, Source, call, framed, seen


def test_a_long_answer_is_kept_as_text_not_as_frames() -> None:
    sent = Sent(include_usage=False)
    words = [Text(f"word {number} ") for number in range(3_000)]
    for item in framed(list(words), "x"):
        sent.add(item)
        assert sum(len(kept) for kept in sent._kept if isinstance(kept, bytes)) <= KEPT_BYTES_MAX
    sent.fold()
    assert sent.said() == {(0, "text", 0): "".join(word.text for word in words)}
    assert sent.tokens == len(words)


def test_an_answer_beyond_the_bound_is_let_go_and_its_error_stands() -> None:
    async def main() -> None:
        many: list[Item] = [Text("x" * 1024)] * (CHARS_MAX // 1024 + 200)
        another = Attempts(Source([Finish("stop")]))
        _, error = await seen(Source(many, CUT), call(), another)
        assert error is CUT
        assert another.asked == []
        sent = Sent(include_usage=False)
        for item in many:
            sent.add(item)
        assert sent.lost
        assert sent.said() == {}

    asyncio.run(main())


def test_frames_that_nobody_can_read_pass_and_cannot_be_rescued() -> None:
    async def main() -> None:
        odd: list[Item] = [b'data: {"choices":[{"index":0,"delta":{"function_call":{"name":"f"}}}]}\n\n']
        for items in (odd, [b'data: {"choices":[{"index":0,"delta":{"content":[1]}}]}\n\n'], [b"data: 1\n\n"]):
            given = [item async for item in _until_error(Source(items, CUT))]
            assert given == items

    asyncio.run(main())


async def _until_error(source: Source) -> AsyncGenerator[Item]:
    with contextlib.suppress(type(CUT)):
        async for item in rescued(source.stream, call(), BOTH, Attempts(Source([Finish("stop")]))):
            yield item


@pytest.mark.parametrize("broken", [False, True])
def test_closing_closes_the_attempt_under_way(broken: bool) -> None:
    async def main() -> None:
        first = Source([Text("a")], CUT) if broken else Source([Text("a"), Text("b"), Text("c")])
        other = Source([Text("b"), Text("c"), Text("d")])
        stream = rescued(first.stream, call(), BOTH, Attempts(other))
        assert [await anext(stream), await anext(stream)] == [Text("a"), Text("b")]
        await stream.aclose()
        assert first.ended
        assert other.ended is broken
        await other.stream.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("broken", [False, True])
def test_cancelling_ends_the_attempt_under_way(broken: bool) -> None:
    async def main() -> None:
        ended: list[str] = []

        async def waits(name: str, *items: Item) -> AsyncGenerator[Item]:
            try:
                for item in items:
                    yield item
                if name == "first" and broken:
                    raise CUT
                await asyncio.Event().wait()
            finally:
                ended.append(name)

        async def another(way: str, text: str) -> Stream:
            return waits("other", Text("b"))

        got: list[Item] = []
        ready = asyncio.Event()

        async def read() -> None:
            async for item in rescued(waits("first", Text("a")), call(), BOTH, another):
                got.append(item)
                if len(got) == 1 + broken:
                    ready.set()

        task = asyncio.create_task(read())
        await ready.wait()
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert ended == (["first", "other"] if broken else ["first"])

    asyncio.run(main())


class Tap:
    """A stream whose items come when the test says so."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[Item | BaseException | None] = asyncio.Queue()
        self.closed = False

    async def run(self) -> AsyncGenerator[Item]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("rule", "held"),
    [
        (HoldBack(), 1),
        (HoldBack(tokens=1), 1),
        (HoldBack(tokens=3), 3),
        (HoldBack(tokens=3, ms=1000), 3),
        (HoldBack(ms=1000), 5),
        (HoldBack(tokens=99), 5),
    ],
)
def test_as_many_pieces_are_held_as_the_rule_says(rule: HoldBack, held: int) -> None:
    async def main() -> None:
        items: list[Item] = [Text("a"), Text("b"), Text("c"), Finish("stop"), Usage(1)]
        first, rest = await hold_back(Source(items).stream, rule, VirtualClock())
        assert first == items[:held]
        assert [item async for item in rest] == items[held:]

    asyncio.run(main())


def test_when_the_time_is_over_the_rest_still_comes_whole() -> None:
    async def main() -> None:
        clock, tap = VirtualClock(), Tap()
        work = asyncio.create_task(hold_back(tap.run(), HoldBack(tokens=10, ms=200), clock))
        await clock.advance(5.0)
        assert not work.done()  # the time counts from the first item
        tap.items.put_nowait(Text("a"))
        await clock.advance(0.1)
        tap.items.put_nowait(Text("b"))
        await clock.advance(0.05)
        assert not work.done()
        await clock.advance(0.06)
        held, rest = await work
        assert held == [Text("a"), Text("b")]
        for item in (Text("c"), Text("d"), None):
            tap.items.put_nowait(item)
        assert [item async for item in rest] == [Text("c"), Text("d")]
        assert tap.closed

    asyncio.run(main())


def test_a_failure_while_holding_is_raised_and_one_after_it_too() -> None:
    async def main() -> None:
        for rule in (HoldBack(tokens=5), HoldBack(ms=500)):
            with pytest.raises(type(CUT)):
                await hold_back(Source([Text("a")], CUT).stream, rule, VirtualClock())
        clock, tap = VirtualClock(), Tap()
        tap.items.put_nowait(Text("a"))
        work = asyncio.create_task(hold_back(tap.run(), HoldBack(ms=100), clock))
        await clock.advance(0.2)
        held, rest = await work
        assert held == [Text("a")]
        tap.items.put_nowait(CUT)
        with pytest.raises(type(CUT)):
            await anext(rest)

    asyncio.run(main())


@pytest.mark.parametrize("held", [False, True])
def test_leaving_while_a_beginning_is_held_or_waited_for_ends_the_stream(held: bool) -> None:
    async def main() -> None:
        clock, tap = VirtualClock(), Tap()
        tap.items.put_nowait(Text("a"))
        work = asyncio.create_task(hold_back(tap.run(), HoldBack(ms=100), clock))
        await clock.advance(0.2 if held else 0.05)
        if held:
            _, rest = await work
            await close(rest)
        else:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
        assert tap.closed
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
