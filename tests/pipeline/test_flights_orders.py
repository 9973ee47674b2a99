"""Single flight in every order of joining, leaving and failing."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.core.errors import HeadgateError, Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event
from tests.pipeline.flying import WHOLE, Flying, Turns
from tests.pipeline.spine import Telling, read

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.booleans()),
        st.tuples(st.just("leave"), st.integers(0, 7)),
        st.tuples(st.just("let"), st.integers(1, 3)),
        st.tuples(st.just("turn"), st.integers(1, 4)),
    ),
    max_size=14,
)
FATES = st.lists(
    st.sampled_from([None, Upstream("broken"), UpstreamTimeout("late", code="deadline_exceeded"), Truncated("cut")]),
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, fates=FATES)
def test_in_every_order_of_joining_leaving_and_failing_all_ends_and_adds_up(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], fates: list[HeadgateError | None]
) -> None:
    async def caller(spine: Flying) -> list[Event | bytes]:
        reply = await spine.handle()
        try:
            return await read(reply)
        finally:
            await reply.aclose()

    async def main() -> None:
        turns = Turns(*fates)
        backend = Telling("a", turns)
        spine = Flying(tmp_path_factory.mktemp("orders"), [backend])
        callers: list[asyncio.Task[list[Event | bytes]]] = []
        for what, number in steps:
            if what == "join":
                callers.append(asyncio.create_task(caller(spine)))
            elif what == "leave" and callers:
                callers[number % len(callers)].cancel()
            elif what == "let":
                await turns.let(number)
            for _ in range(number if what == "turn" else 1):
                await asyncio.sleep(0)
        await turns.let()
        outcomes = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 10)
        for outcome in outcomes:
            assert isinstance(outcome, HeadgateError | asyncio.CancelledError) or outcome == WHOLE
        assert len(spine.done()) == len(callers)
        assert len(spine.receipts()) == len({receipt.id for receipt in spine.receipts()})
        assert sum(receipt.outcome == "ok" for receipt in spine.receipts()) <= turns.runs
        spine.at_rest()

    asyncio.run(main())
