"""The door: exact bounds, order, honest refusals, and nothing leaked whoever leaves when."""

import asyncio
import random
from functools import partial

import pytest

from headgate.core.errors import OverLimit, Overloaded
from headgate.core.principal import KeyLimits
from headgate.pipeline.admission import Lease
from tests.pipeline.door import Door, MakeDoor
from tests.pipeline.spine import until


def waits(house: Door, count: int) -> bool:
    return house.waiting == count


def test_never_more_than_the_bound_are_inside_and_all_get_in(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=7, queue=500)
        inside = most = 0
        rng = random.Random(1)

        async def one() -> None:
            nonlocal inside, most
            lease = await house.enter()
            inside += 1
            most = max(most, inside)
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            inside -= 1
            house.leave(lease)

        async with asyncio.TaskGroup() as group:
            for _ in range(200):
                group.create_task(one())
        assert most == 7
        assert house.empty()

    asyncio.run(main())


def test_who_came_first_enters_first(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1)
        order: list[int] = []
        first = await house.enter()

        async def wait(name: int) -> None:
            lease = await house.enter()
            order.append(name)
            house.leave(lease)

        async with asyncio.TaskGroup() as group:
            for name in range(5):
                group.create_task(wait(name))
                await until(partial(waits, house, name + 1))
            house.leave(first)
        assert order == [0, 1, 2, 3, 4]
        assert house.empty()

    asyncio.run(main())


def test_a_full_queue_refuses_at_once_with_the_wait_to_expect(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1, queue=1)
        first = await house.enter()
        house.clock.jump(20)
        waiting = asyncio.create_task(house.enter())
        await until(lambda: house.waiting == 1)
        with pytest.raises(Overloaded) as refused:
            await house.enter()
        assert (refused.value.code, refused.value.status) == ("queue_full", 503)
        assert refused.value.retry_after is not None
        assert refused.value.retry_after >= 1
        house.leave(first)
        house.leave(await waiting)
        assert house.empty()

    asyncio.run(main())


def test_the_expected_wait_follows_how_long_calls_really_take(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1, queue=0)
        for _ in range(60):
            lease = await house.enter()
            house.clock.jump(30)
            house.leave(lease)
        lease = await house.enter()
        with pytest.raises(Overloaded) as refused:
            await house.enter()
        assert refused.value.retry_after == pytest.approx(30, rel=0.1)
        house.leave(lease)

    asyncio.run(main())


def test_refused_calls_do_not_make_the_expected_wait_look_short(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1, queue=0, limits=KeyLimits(requests_per_minute=1))
        house.leave(await house.enter())
        for _ in range(60):
            lease = await house.enter("other")
            house.clock.jump(30)
            house.leave(lease)
        house.leave(await house.enter())
        for _ in range(200):
            with pytest.raises(OverLimit):
                await house.enter()
        lease = await house.enter("other")
        with pytest.raises(Overloaded) as refused:
            await house.enter("third")
        assert refused.value.retry_after == pytest.approx(27, rel=0.1)
        house.leave(lease)

    asyncio.run(main())


def test_waiting_ends_after_the_limit_with_503_and_a_retry_time(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1, queue_wait_s=0.02)
        first = await house.enter()
        before = await house.remaining("tokens")
        with pytest.raises(Overloaded) as refused:
            await house.enter()
        assert refused.value.code == "queue_timeout"
        assert refused.value.retry_after is not None
        assert await house.remaining("tokens") == before
        house.leave(first)
        assert house.empty()

    asyncio.run(main())


def test_waiting_also_ends_at_the_calls_own_deadline(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1)
        first = await house.enter()
        with pytest.raises(Overloaded):
            await house.enter(seconds=0.02)
        house.leave(first)
        assert house.empty()

    asyncio.run(main())


def test_a_caller_who_leaves_the_queue_leaves_nothing_behind(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1)
        first = await house.enter()
        tokens = await house.remaining("tokens")
        waiting = [asyncio.create_task(house.enter()) for _ in range(20)]
        await until(lambda: house.waiting == 20)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (house.active, house.waiting) == (1, 0)
        assert await house.remaining("tokens") == tokens
        house.leave(first)
        assert house.empty()

    asyncio.run(main())


def test_a_place_handed_to_a_caller_who_leaves_at_that_moment_goes_on_to_the_next(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1)
        first = await house.enter()
        leaving = asyncio.create_task(house.enter())
        staying = asyncio.create_task(house.enter())
        await until(lambda: house.waiting == 2)
        house.leave(first)  # hands the place over without the other having run yet
        leaving.cancel()
        lease = await staying
        await asyncio.gather(leaving, return_exceptions=True)
        assert leaving.cancelled()
        house.leave(lease)
        assert house.empty()

    asyncio.run(main())


class Walk:
    """Random steps over the door's operations; keeps who is inside."""

    def __init__(self, house: Door, seed: int) -> None:
        self.house = house
        self.rng = random.Random(seed)
        self.coming: list[asyncio.Task[Lease]] = []
        self.inside: list[Lease] = []

    async def step(self) -> None:
        what = self.rng.randrange(5)
        if what < 2:
            self.coming.append(asyncio.create_task(self.house.enter(seconds=10_000)))
        elif what == 2 and self.coming:
            self.rng.choice(self.coming).cancel()
        elif what == 3 and self.inside:
            self.house.leave(self.inside.pop(self.rng.randrange(len(self.inside))))
        elif what == 4:
            self.house.use(concurrency=self.rng.choice([2, 3, 5]), queue=6)
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        self.sort([task for task in self.coming if task.done()])

    def sort(self, ended: list[asyncio.Task[Lease]]) -> None:
        for task in ended:
            self.coming.remove(task)
            if task.cancelled():
                continue
            if task.exception() is None:
                self.inside.append(task.result())
            else:
                assert isinstance(task.exception(), Overloaded)

    async def end(self) -> None:
        for task in self.coming:
            task.cancel()
        if self.coming:
            await asyncio.wait(self.coming)
        self.sort(list(self.coming))
        for lease in self.inside:
            self.house.leave(lease)


@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_coming_leaving_giving_up_and_resizing_keeps_the_books(door: MakeDoor, seed: int) -> None:
    async def main() -> None:
        house = door(concurrency=3, queue=6, queue_wait_s=1000)
        walk = Walk(house, seed)
        for _ in range(1500):
            await walk.step()
            assert house.active <= 5
            assert house.waiting <= 6
        await walk.end()
        assert house.empty()

    asyncio.run(main())


def test_more_room_lets_those_in_who_wait_and_nobody_overtakes_them(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=1)
        leases = [await house.enter()]
        waiting = [asyncio.create_task(house.enter()) for _ in range(3)]
        await until(lambda: house.waiting == 3)
        house.use(concurrency=3)
        leases += [await waiting[0], await waiting[1]]
        late = asyncio.create_task(house.enter())
        await asyncio.sleep(0)
        assert not late.done()
        house.leave(leases.pop())
        leases.append(await waiting[2])
        assert not late.done()
        house.leave(leases.pop())
        leases.append(await late)
        for lease in leases:
            house.leave(lease)
        assert house.empty()

    asyncio.run(main())


def test_less_room_takes_effect_although_others_wait(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(concurrency=4)
        leases = [await house.enter() for _ in range(4)]
        waiting = asyncio.create_task(house.enter())
        await until(lambda: house.waiting == 1)
        house.use(concurrency=1)
        for lease in leases[:3]:
            house.leave(lease)
        assert (house.active, house.waiting) == (1, 1)
        house.leave(leases[3])
        house.leave(await waiting)
        assert house.empty()

    asyncio.run(main())
