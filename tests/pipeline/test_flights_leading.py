"""Who leads a flight, who pays, and what happens when callers leave: nothing runs for nobody, nothing is paid twice."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest

from headgate.core.call import Call
from headgate.core.errors import Bug, OverBudget, Overloaded, Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event, Text
from headgate.core.policy import Budget, Governed, Policy
from headgate.core.ports import Progress
from headgate.core.principal import Principal
from headgate.core.reply import Reply
from headgate.core.usage import Usage
from headgate.pipeline.admission import Lease
from headgate.pipeline.flights.stage import Flights
from headgate.pipeline.meter import Story
from headgate.storage.limits.memory import MemoryLimiter
from tests.pipeline.flying import WHOLE, Flying, Turns, start
from tests.pipeline.spine import Telling, hangs, read, says, until


async def end(task: "asyncio.Task[Reply]") -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_the_leader_leaves_and_the_flight_goes_on_for_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        leader, *others = await start(spine, 3)
        await end(leader)
        assert backend.closed == 0
        await turns.let()
        for task in others:
            reply = await task
            assert await read(reply) == WHOLE
            await reply.aclose()
        (receipt,) = spine.receipts()
        assert (receipt.outcome, receipt.usage, receipt.call_id) == (
            "ok", Usage(input=3, output=1), spine.done()[0]["request_id"],
        )  # fmt: skip
        assert [line["outcome"] for line in spine.done()] == ["cancelled", "ok", "ok"]
        assert spine.done()[0]["input_tokens"] > 0, "its limits pay what it has used until then"
        spine.at_rest()

    asyncio.run(main())


def test_the_leader_leaves_in_the_middle_and_nobody_notices(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        spine = Flying(tmp_path, [Telling("a", turns)])
        tasks = await start(spine, 2)
        await turns.let(1)
        leader, other = await asyncio.gather(*tasks)
        assert leader.stream is not None
        assert await anext(leader.stream) == Text("one")
        await leader.aclose()
        await turns.let()
        assert await read(other) == WHOLE
        await other.aclose()
        assert [receipt.outcome for receipt in spine.receipts()] == ["ok"]
        spine.at_rest()

    asyncio.run(main())


@pytest.mark.parametrize("begun", [False, True])
def test_with_the_last_caller_the_upstream_is_cancelled_at_once(tmp_path: Path, begun: bool) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        tasks = await start(spine, 3)
        if begun:
            await turns.let(1)
            for reply in await asyncio.gather(*tasks):
                await reply.aclose()
        else:
            for task in tasks:
                await end(task)
        assert backend.closed == 1
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("cancelled", "client_closed")]
        spine.at_rest()
        await turns.let()
        headers, answer = await spine.outcome()
        assert (headers[b"x-headgate-single-flight"], answer) == (b"led", WHOLE)
        spine.at_rest()

    asyncio.run(main())


def test_where_the_leaders_deadline_passes_the_next_one_runs_it_anew(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        leader = asyncio.create_task(spine.handle(seconds=2))
        await until(lambda: backend.opened == 1)
        others = [asyncio.create_task(spine.outcome(seconds=3.8)) for _ in range(3)]
        with pytest.raises(UpstreamTimeout) as caught:
            await leader
        assert caught.value.code == "deadline_exceeded"
        await until(lambda: backend.opened == 2)
        await turns.let()
        answers = await asyncio.gather(*others)
        assert [answer for _, answer in answers] == [WHOLE] * 3
        assert sorted(headers[b"x-headgate-single-flight"] for headers, _ in answers) == [b"joined", b"joined", b"led"]
        assert [receipt.outcome for receipt in spine.receipts()] == ["failed", "ok"]
        assert len({receipt.call_id for receipt in spine.receipts()}) == 2, "each pays for the run that it led"
        assert len(spine.again) == 1
        assert spine.count("promoted") == 1
        spine.at_rest()

    asyncio.run(main())


def test_who_has_even_less_time_than_the_leader_is_not_made_the_leader(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        leader = asyncio.create_task(spine.handle(seconds=0.3))
        await until(lambda: backend.opened == 1)
        hasty = asyncio.create_task(spine.handle(seconds=0.1))
        for task in (hasty, leader):
            with pytest.raises(UpstreamTimeout):
                await task
        assert backend.opened == 1
        assert [line["code"] for line in spine.done()] == ["deadline_exceeded"] * 2
        spine.at_rest()

    asyncio.run(main())


def test_whose_budget_holds_no_run_is_refused_alone(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns(UpstreamTimeout("late", code="deadline_exceeded"))
        spine = Flying(tmp_path, [Telling("a", turns)])
        tasks = await start(spine, 3)
        spine.refuse = OverBudget("spent")
        await turns.let()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [UpstreamTimeout, OverBudget, OverBudget]
        assert len(spine.again) == 2
        assert len(spine.receipts()) == 1
        spine.at_rest()

    asyncio.run(main())


def test_a_deadline_that_passes_after_the_first_byte_is_an_error_for_all(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        leader = asyncio.create_task(spine.handle(seconds=0.5))
        await until(lambda: backend.opened == 1)
        other = asyncio.create_task(spine.handle(seconds=0.8))
        await turns.let(1)
        for reply in await asyncio.gather(leader, other):
            with pytest.raises(UpstreamTimeout) as caught:
                await read(reply)
            await reply.aclose(caught.value)
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("failed", "deadline_exceeded")]
        assert [line["outcome"] for line in spine.done()] == ["failed"] * 2
        spine.at_rest()

    asyncio.run(main())


def test_nobody_joins_a_stream_that_will_be_over_long_before_its_own_time(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        hasty = asyncio.create_task(spine.handle(seconds=0.5))
        await until(lambda: backend.opened == 1)
        patient = [asyncio.create_task(spine.outcome()) for _ in range(2)]
        await until(lambda: backend.opened == 2)
        await turns.let(1)
        reply = await hasty
        with pytest.raises(UpstreamTimeout) as caught:
            await read(reply)
        await reply.aclose(caught.value)
        await turns.let()
        assert [answer for _, answer in await asyncio.gather(*patient)] == [WHOLE] * 2
        assert (backend.opened, spine.count("joined")) == (2, 1), "the second of them joined the first"
        spine.at_rest()

    asyncio.run(main())


def test_one_that_joined_keeps_its_own_deadline(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        backend = Telling("a", turns)
        spine = Flying(tmp_path, [backend])
        (leader,) = await start(spine, 1)
        with pytest.raises(UpstreamTimeout):
            await spine.handle(seconds=0.1)
        await turns.let(1)
        begun = await leader
        hasty = await spine.handle(seconds=0.1)
        with pytest.raises(UpstreamTimeout) as caught:
            await read(hasty)
        await hasty.aclose(caught.value)
        await turns.let()
        assert await read(begun) == WHOLE
        await begun.aclose()
        assert [line["outcome"] for line in spine.done()] == ["failed", "failed", "ok"]
        spine.at_rest()

    asyncio.run(main())


def test_who_leads_has_more_time_than_the_one_that_ran_out_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns(UpstreamTimeout("late", code="deadline_exceeded"))
        spine = Flying(tmp_path, [Telling("a", turns)])
        (leader,) = await start(spine, 1)
        (hasty,) = await start(spine, 1, seconds=30)
        (patient,) = await start(spine, 1, seconds=90)
        await turns.let()
        with pytest.raises(UpstreamTimeout):
            await leader
        for task, part in ((hasty, b"joined"), (patient, b"led")):
            reply = await task
            assert (b"x-headgate-single-flight", part) in reply.headers
            assert await read(reply) == WHOLE
            await reply.aclose()
        spine.at_rest()

    asyncio.run(main())


def test_a_leader_that_stands_still_past_its_deadline_lets_nobody_hang(tmp_path: Path) -> None:
    async def main() -> None:
        spine = Flying(tmp_path, [Telling("a", says(*[b"x" * 16_384] * 200, Usage(input=1, output=1)))])
        still = await spine.handle(seconds=0.5)
        other = await spine.handle(seconds=0.8)
        with pytest.raises(UpstreamTimeout) as caught:
            await asyncio.wait_for(read(other), 10)
        await other.aclose(caught.value)
        await still.aclose()
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("failed", "deadline_exceeded")]
        spine.at_rest()

    asyncio.run(main())


def test_why_the_last_one_ended_is_why_the_run_ended(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        spine = Flying(tmp_path, [Telling("a", turns)])
        (task,) = await start(spine, 1)
        await turns.let(1)
        reply = await task
        await reply.aclose(Truncated("the caller could not be told more"))
        assert [(r.outcome, r.code) for r in spine.receipts()] == [("failed", "upstream_truncated")]
        spine.at_rest()

    asyncio.run(main())


def test_a_run_lends_its_leaders_place_while_it_waits_as_any_call(tmp_path: Path) -> None:
    seen: list[Lease] = []

    async def send(lease: Lease, reply: Reply, story: Story) -> None:
        seen.append(lease)
        lease.waited_s += 1.0
        reply.body = b"{}"

    async def main() -> None:
        spine = Flying(tmp_path, [Telling("a", hangs())])
        spine.gateway.flights = Flights(send, spine.admission.lead, spine.clock)
        await spine.outcome(stream=False)
        (lease,) = seen
        assert lease.slot is not None
        assert lease.started > 0
        spine.at_rest()

    asyncio.run(main())


def test_a_fault_of_ours_reaches_everyone_and_leaves_nothing(tmp_path: Path) -> None:
    async def broken(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        for _ in range(1 // progress.output_tokens):
            yield WHOLE[0]

    async def main() -> None:
        spine = Flying(tmp_path, [Telling("a", broken)])
        tasks = [asyncio.create_task(spine.handle()) for _ in range(3)]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, ZeroDivisionError | Bug) for error in errors)
        assert [line["status"] for line in spine.done()] == [500] * 3
        spine.at_rest()

    asyncio.run(main())


def test_a_server_that_stops_ends_the_flights(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", hangs())
        spine = Flying(tmp_path, [backend])
        tasks = await start(spine, 3)
        await spine.flights.aclose()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(error, Overloaded) for error in errors)
        assert [receipt.outcome for receipt in spine.receipts()] == ["cancelled"]
        spine.at_rest()

    asyncio.run(main())


BUDGET = Policy(budgets=(Budget(1.0, per="total"),))
PAYING = Principal("key_1", "acme", frozenset({"inference"}), policies=(Governed("project", "acme", BUDGET),))


def balance(spine: Flying) -> Callable[[], Awaitable[tuple[int, int]]]:
    """What the budget has spent, and holds."""

    async def look() -> tuple[int, int]:
        assert isinstance(spine.limiter, MemoryLimiter)
        (state,) = await spine.limiter.balances(["project:acme:usd/total/all/*::all"])
        assert state is not None
        return state.spent, state.held

    return look


def test_what_a_run_did_not_need_is_not_held_any_longer(tmp_path: Path) -> None:
    async def send(lease: Lease, reply: Reply, story: Story) -> None:
        raise Upstream("nobody was asked")

    async def main() -> None:
        spine = Flying(tmp_path, [Telling("a", hangs())], principal=PAYING)
        spine.gateway.flights = Flights(send, spine.admission.lead, spine.clock)
        with pytest.raises(Upstream):
            await spine.outcome()
        assert await balance(spine)() == (0, 0)
        spine.at_rest()

    asyncio.run(main())


def test_budgets_pay_for_one_run_and_hold_nothing_for_who_joined(tmp_path: Path) -> None:
    async def main() -> None:
        turns = Turns()
        spine = Flying(tmp_path, [Telling("a", turns)], principal=PAYING)
        look = balance(spine)
        (leader,) = await start(spine, 1)
        spent, held = await look()
        assert spent == 0
        assert held > 0
        others = await start(spine, 4)
        assert await look() == (0, held), "those who joined hold nothing"
        await turns.let(1)
        begun = await leader
        await begun.aclose()
        assert await look() == (0, held), "the run that goes on is held for"
        await turns.let()
        for reply in await asyncio.gather(*others):
            await read(reply)
            await reply.aclose()
        assert await look() == (5_000, 0)
        spine.at_rest()

    asyncio.run(main())
