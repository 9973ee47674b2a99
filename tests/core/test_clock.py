import asyncio
import time

from headgate.core.clock import Clock, SystemClock
from tests.clock import VirtualClock


def test_the_system_clock_tells_unix_time_and_a_monotonic_that_never_goes_back() -> None:
    clock: Clock = SystemClock()
    before = time.time()
    assert before <= clock.now() <= time.time()
    first = clock.monotonic()
    asyncio.run(clock.sleep(0.001))
    assert clock.monotonic() >= first


def test_virtual_time_moves_only_by_hand() -> None:
    clock = VirtualClock(start=100.0)
    as_handed_in: Clock = clock
    assert as_handed_in.now() == 100.0
    assert (clock.now(), clock.monotonic()) == (100.0, 0.0)
    clock.jump(2.5)
    assert (clock.now(), clock.monotonic()) == (102.5, 2.5)


def test_sleepers_of_virtual_time_wake_in_the_order_of_their_times() -> None:
    async def main() -> None:
        clock = VirtualClock()
        woken: list[tuple[str, float]] = []

        async def sleeper(name: str, seconds: float, times: int = 1) -> None:
            for _ in range(times):
                await clock.sleep(seconds)
                woken.append((name, clock.monotonic()))

        async with asyncio.TaskGroup() as group:
            group.create_task(sleeper("late", 5))
            group.create_task(sleeper("often", 2, times=3))
            await clock.advance(5)
            assert woken == [("often", 2), ("often", 4), ("late", 5)]
            assert clock.sleeping == 1
            await clock.advance(1)
        assert woken[-1] == ("often", 6)

    asyncio.run(main())


def test_a_cancelled_sleeper_leaves_nothing_behind() -> None:
    async def main() -> None:
        clock = VirtualClock()
        task = asyncio.create_task(clock.sleep(1))
        await clock.settle()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert clock.sleeping == 0

    asyncio.run(main())
