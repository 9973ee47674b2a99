"""A key's own limits: exact, told in headers, trued up by what was used."""

import asyncio
import os

import pytest

from headgate.core.errors import HeadgateError, OverLimit, Overloaded
from headgate.core.limiter import Cost, Plan, Verdict
from headgate.core.principal import KeyLimits
from headgate.storage.limits.memory import MemoryLimiter
from tests.clock import VirtualClock
from tests.pipeline.door import MakeDoor
from tests.pipeline.spine import completion_call, until


def test_a_key_over_its_own_concurrency_is_refused_alone(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(limits=KeyLimits(concurrency=2))
        leases = [await house.enter(), await house.enter()]
        with pytest.raises(OverLimit, match="2 calls at once, of this API key") as refused:
            await house.enter()
        assert (refused.value.code, refused.value.status) == ("concurrency_limit_exceeded", 429)
        assert refused.value.retry_after is not None
        leases.append(await house.enter("other"))
        for lease in leases:
            house.leave(lease)
        assert house.empty()

    asyncio.run(main())


def test_requests_per_minute_are_exact_and_the_retry_time_is_true(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(limits=KeyLimits(requests_per_minute=6))
        for _ in range(6):
            house.leave(await house.enter())
        with pytest.raises(OverLimit, match="6 requests per minute") as refused:
            await house.enter()
        wait = refused.value.retry_after or 0.0
        assert wait == pytest.approx(10.0)
        assert dict(refused.value.headers)[b"x-ratelimit-remaining-requests"] == b"0"
        house.clock.jump(wait - 0.01)
        with pytest.raises(OverLimit):
            await house.enter()
        house.clock.jump(0.01)
        house.leave(await house.enter())
        assert house.empty()

    asyncio.run(main())


def test_a_key_over_its_rate_is_refused_at_once_and_takes_no_room_in_the_queue(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1, limits=KeyLimits(requests_per_minute=1))
        blocker = await house.enter("other")
        held = asyncio.create_task(house.enter())
        await until(lambda: house.waiting == 1)
        with pytest.raises(OverLimit):
            await house.enter()
        assert house.waiting == 1
        house.leave(blocker)
        house.leave(await held)
        assert house.empty()

    asyncio.run(main())


def test_headers_tell_both_limits_what_is_left_and_when_it_is_full_again(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(limits=KeyLimits(requests_per_minute=60, tokens_per_minute=6000))
        lease = await house.enter(max_completion_tokens=100)
        headers = {name.decode(): value.decode() for name, value in lease.headers}
        assert headers["x-ratelimit-limit-requests"] == "60"
        assert headers["x-ratelimit-remaining-requests"] == "59"
        assert headers["x-ratelimit-reset-requests"] == "1s"
        assert headers["x-ratelimit-limit-tokens"] == "6000"
        assert int(headers["x-ratelimit-remaining-tokens"]) == 6000 - lease.booked.cost.tokens
        assert headers["x-ratelimit-reset-tokens"] == "2s"
        house.leave(lease)

    asyncio.run(main())


@pytest.mark.parametrize(("used", "left"), [(0, 6000), (40, 5960), (5000, 1000), (9000, 0)])
def test_the_token_limit_is_trued_up_to_what_was_used(door: MakeDoor, used: int, left: int) -> None:
    async def main() -> None:
        house = door(limits=KeyLimits(tokens_per_minute=6000))
        house.leave(await house.enter(max_completion_tokens=500), used)
        assert await house.remaining("tokens") == left

    asyncio.run(main())


def test_asking_for_more_than_the_whole_limit_gives_back_only_what_was_taken(door: MakeDoor) -> None:
    """max_tokens far above the limit once refilled the whole bucket at the end of each call."""

    async def main() -> None:
        house = door(limits=KeyLimits(tokens_per_minute=1000))
        house.leave(await house.enter(max_completion_tokens=30_000), 900)
        assert await house.remaining("tokens") == 100
        with pytest.raises(OverLimit):
            await house.enter(max_completion_tokens=30_000)

    asyncio.run(main())


def test_several_answers_reserve_several_times(door: MakeDoor) -> None:
    async def main() -> None:
        house = door()
        one = await house.enter(max_completion_tokens=1000)
        four = await house.enter(max_completion_tokens=1000, n=4)
        assert four.booked.cost.tokens - one.booked.cost.tokens == pytest.approx(3000, abs=5)
        call = completion_call(house.clock, prompt=["a", "b", "c"], max_tokens=1000, n=2)
        six = await house.admit(call)
        assert six.booked.cost.tokens == pytest.approx(6000, abs=100)
        for lease in (one, four, six):
            house.leave(lease)

    asyncio.run(main())


def test_a_limit_nobody_reaches_is_not_reserved(door: MakeDoor) -> None:
    async def main() -> None:
        house = door()
        lease = await house.enter(max_completion_tokens=2_000_000_000)
        assert lease.booked.cost.tokens < 40_000
        house.leave(lease)

    asyncio.run(main())


def test_a_journal_that_cannot_be_written_lets_nobody_in_until_it_can(door: MakeDoor) -> None:
    async def main() -> None:
        house = door()
        house.journal.close()
        house.journal._fd = os.open("/dev/full", 1)
        for _ in range(2):
            house.journal.broken = house.journal.broken or "No space left on device"
            with pytest.raises(Overloaded, match="No space left on device") as refused:
                await house.enter()
            assert (refused.value.code, refused.value.status) == ("ledger_unavailable", 503)
        house.journal.close()
        house.journal._fd, _ = house.journal._open_segment(1)
        house.leave(await house.enter())
        assert house.journal.broken is None
        assert house.empty()

    asyncio.run(main())


class Away(MemoryLimiter):
    """Limits that can be out of reach, or never answer."""

    away = False
    hang = False

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        if self.hang:
            await asyncio.get_running_loop().create_future()
        if self.away:
            raise Overloaded("the limits are away", code="storage_unavailable")
        return await super().reserve(claim, plan, cost, ttl_s)


def test_limits_out_of_reach_refuse_and_leave_nothing_behind(door: MakeDoor) -> None:
    async def main() -> None:
        limiter = Away(VirtualClock())
        house = door(limiter=limiter)
        lease = await house.enter()
        limiter.away = True
        with pytest.raises(HeadgateError):
            await house.enter()
        house.leave(lease, 0)
        assert house.empty()

    asyncio.run(main())


def test_a_caller_may_leave_while_the_limits_never_answer(door: MakeDoor) -> None:
    async def main() -> None:
        limiter = Away(VirtualClock())
        house = door(limiter=limiter)
        limiter.hang = True
        task = asyncio.create_task(house.enter())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert house.empty()

    asyncio.run(main())
