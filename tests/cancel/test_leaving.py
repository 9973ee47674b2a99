"""The caller leaves while a stage's neighbour sleeps for ever: everything that was taken comes back, once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.backends.script import Script
from headgate.backends.scripted import ScriptedBackend
from headgate.core.clock import SystemClock
from headgate.core.errors import Upstream
from headgate.core.events import Text
from headgate.core.limiter import Cost, Plan, Rate, Verdict
from headgate.core.ports import Backend
from headgate.core.principal import KeyLimits
from headgate.pipeline.admission import AdmissionSettings
from headgate.storage.limits.memory import MemoryLimiter
from tests.clock import VirtualClock
from tests.pipeline.spine import Spine, Telling, fails, hangs, says, until

TOKENS = 100_000


class Sleepy(MemoryLimiter):
    """Limits that can fall asleep for good."""

    asleep = False

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        if self.asleep:
            await asyncio.get_running_loop().create_future()
        return await super().reserve(claim, plan, cost, ttl_s)


def spine(folder: Path, *backends: Backend, concurrency: int = 5) -> Spine:
    return Spine(
        folder,
        backends,
        settings=AdmissionSettings(concurrency=concurrency),
        limits=KeyLimits(tokens_per_minute=TOKENS),
        limiter=Sleepy(VirtualClock()),
    )


async def tokens_left(house: Spine) -> float:
    key = "token_bucket:key:key_1:tokens/minute/all/*:"
    plan = Plan(rates=(Rate(key=key, amount=TOKENS, window_s=60, tokens=True, burst=TOKENS),))
    return (await house.limiter.reserve("asking", plan, Cost(0), 1.0)).rates[0].remaining


async def leave_during(house: Spine, waiting: Callable[[], bool]) -> None:
    """Starts a call, waits until it hangs where it should, and has its caller leave before the first byte."""
    task = asyncio.create_task(house.handle())
    await until(waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def one_cancelled_line(house: Spine, receipts: int) -> None:
    assert [(line["outcome"], line["status"]) for line in house.done()] == [("cancelled", 499)]
    assert [receipt.outcome for receipt in house.receipts()] == ["cancelled"] * receipts
    house.at_rest()


def test_leaving_while_the_limits_sleep(tmp_path: Path) -> None:
    async def main() -> None:
        house = spine(tmp_path, Telling("a", says(Text("x"))))
        assert isinstance(house.limiter, Sleepy)
        house.limiter.asleep = True
        task = asyncio.create_task(house.handle())
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        one_cancelled_line(house, 0)

    asyncio.run(main())


def test_leaving_the_queue_while_the_one_inside_stays_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        house = spine(tmp_path, Telling("a", hangs(Text("x"))), concurrency=1)
        inside = await house.handle()
        before = await tokens_left(house)
        for _ in range(10):
            await leave_during(house, lambda: house.admission.gate.waiting == 1)
        assert (house.admission.gate.active, house.admission.gate.waiting) == (1, 0)
        assert await tokens_left(house) >= before
        await inside.aclose()
        assert [line["outcome"] for line in house.done()] == ["cancelled"] * 11
        assert len(house.receipts()) == 1
        house.at_rest()

    asyncio.run(main())


def test_leaving_while_the_backend_never_accepts(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", says(Text("x")), hang_open=True)
        house = spine(tmp_path, backend)
        await leave_during(house, lambda: backend.opened == 1)
        one_cancelled_line(house, 1)
        assert await tokens_left(house) == pytest.approx(TOKENS, abs=1)

    asyncio.run(main())


def test_leaving_while_the_first_piece_never_comes(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", hangs(), counts=True)
        house = spine(tmp_path, backend)
        await leave_during(house, lambda: backend.opened == 1 and house.admission.gate.active == 1)
        one_cancelled_line(house, 1)
        assert backend.closed == 1
        assert await tokens_left(house) == pytest.approx(TOKENS, abs=1)

    asyncio.run(main())


def test_leaving_while_the_fallback_sleeps(tmp_path: Path) -> None:
    async def main() -> None:
        second = Telling("second", hangs())
        house = spine(tmp_path, Telling("first", fails(Upstream("no"))), second)
        await leave_during(house, lambda: second.opened == 1)
        assert [receipt.outcome for receipt in house.receipts()] == ["failed", "cancelled"]
        assert [line["outcome"] for line in house.done()] == ["cancelled"]
        house.at_rest()

    asyncio.run(main())


def test_leaving_in_the_middle_of_an_answer_that_never_ends(tmp_path: Path) -> None:
    async def main() -> None:
        clock = SystemClock()
        backend = ScriptedBackend(clock, name="a", script=Script(tokens=5, never_finish=True))
        house = spine(tmp_path, backend)
        reply = await house.handle()
        got: list[object] = []

        async def consume() -> None:
            try:
                assert reply.stream is not None
                while True:
                    got.append(await anext(reply.stream))
            finally:
                await reply.aclose()

        task = asyncio.create_task(consume())
        await until(lambda: len(got) == 5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        one_cancelled_line(house, 1)
        used = house.receipts()[0].usage
        assert (used.output, used.estimated) == (5, False)
        assert await tokens_left(house) == pytest.approx(TOKENS - used.total, abs=5)

    asyncio.run(main())


def test_leaving_without_having_read_a_single_piece(tmp_path: Path) -> None:
    async def main() -> None:
        house = spine(tmp_path, Telling("a", hangs(Text("x"))))
        reply = await house.handle()
        await reply.aclose()
        await reply.aclose()
        one_cancelled_line(house, 1)

    asyncio.run(main())


def test_limits_that_sleep_do_not_hold_up_the_end_of_a_reply(tmp_path: Path) -> None:
    async def main() -> None:
        backend = Telling("a", hangs(Text("x")))
        house = spine(tmp_path, backend)
        reply = await house.handle()
        assert isinstance(house.limiter, Sleepy)
        house.limiter.asleep = True
        await reply.aclose()
        assert (house.admission.gate.active, backend.closed) == (0, 1)
        one_cancelled_line(house, 1)

    asyncio.run(main())


def test_two_hundred_callers_leaving_at_random_moments_leave_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        clock = SystemClock()
        backends = [
            ScriptedBackend(clock, name="a", script=Script(fail_status=503)),
            ScriptedBackend(clock, name="b", script=Script(tokens=50, rate=2000, never_finish=True)),
        ]
        house = spine(tmp_path, *backends, concurrency=20)

        async def caller(number: int) -> None:
            async with asyncio.timeout(0.001 * (number % 60)):
                await house.whole(max_completion_tokens=10)

        results = await asyncio.gather(*(caller(number) for number in range(200)), return_exceptions=True)
        assert all(isinstance(result, TimeoutError) for result in results)
        house.at_rest()
        lines = house.done()
        assert len({line["request_id"] for line in lines}) <= len(lines) <= 200
        assert len(house.receipts()) == sum(line["attempts"] for line in lines)
        assert {line["outcome"] for line in lines} == {"cancelled"}

    asyncio.run(main())
