"""The gate of a backend: exact bounds, fair order, honest refusals, and every slot back whoever leaves when."""

import asyncio
import random
from collections.abc import Coroutine
from statistics import mean
from typing import Any

import msgspec
import pytest

from bench.fair_time import LoopClock, run
from headgate.core.deadline import Deadline
from headgate.core.errors import Overloaded
from headgate.core.policy import Priority
from headgate.pipeline.capacity import Adaptive, AdaptiveSettings, Capacity, Fixed
from headgate.pipeline.gate import Gate, GateSettings, Slot, Ticket


class House:
    """A gate in virtual time, and calls that go through it."""

    def __init__(self, limit: int | Capacity = 1, **settings: float) -> None:
        self.clock = LoopClock()
        capacity = Fixed(limit) if isinstance(limit, int) else limit
        self.gate = Gate("model", capacity, msgspec.convert(settings, GateSettings), self.clock)
        self.order: list[str] = []
        self.refused: list[tuple[str, Overloaded]] = []

    def ticket(
        self, tenant: str = "a", priority: Priority = "interactive", cost: int = 100, within: float = 600.0
    ) -> Ticket:
        return Ticket(tenant, 1.0, priority, cost, Deadline.after(self.clock, within))

    async def call(self, name: str, ticket: Ticket, hold: float = 1.0, ok: bool = True) -> Slot | None:
        """Through the gate and out again; its turn or its refusal is noted."""
        try:
            slot = await self.gate.enter(ticket)
        except Overloaded as error:
            self.refused.append((name, error))
            return None
        self.order.append(name)
        try:
            await asyncio.sleep(hold)
        finally:
            slot.leave(hold, ok)
        return slot

    def empty(self) -> bool:
        return (self.gate.active, self.gate.waiting, len(self.gate._lines)) == (0, 0, 0)


async def gather(*works: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for work in works:
            group.create_task(work)


def test_where_there_is_room_a_call_enters_without_giving_way() -> None:
    async def main() -> None:
        house = House(3)
        for expected in (1, 2, 3):
            work = house.gate.enter(house.ticket())
            with pytest.raises(StopIteration) as done:
                work.send(None)  # it never waits for anything, so its first step is its last
            assert done.value.value.waited_s == 0.0
            assert house.gate.active == expected
        assert house.gate.expected_wait(house.ticket()) == 0.0  # nothing has ended yet: there is nothing to judge by
        assert house.gate.waiting == 0

    run(main())


def test_never_more_than_the_limit_are_inside_and_leaving_twice_is_leaving_once() -> None:
    async def main() -> None:
        house = House(7, queue=500)
        most = 0

        async def one(rng: random.Random) -> None:
            nonlocal most
            slot = await house.gate.enter(house.ticket(rng.choice("abc")))
            most = max(most, house.gate.active)
            await asyncio.sleep(rng.random())
            slot.leave(0.5)
            slot.leave(0.5)
            assert house.gate.active >= 0

        await gather(*(one(random.Random(seed)) for seed in range(300)))
        assert most == 7
        assert house.empty()

    run(main())


def test_tenants_take_turns_and_priority_comes_first() -> None:
    async def main() -> None:
        house = House(1)
        works = [house.call("first", house.ticket("x"))]
        works += [house.call(f"a{place}", house.ticket("a")) for place in range(4)]
        works += [house.call("batch", house.ticket("d", "batch"))]
        works += [house.call(f"b{place}", house.ticket("b")) for place in range(2)]
        works += [house.call("normal", house.ticket("c", "normal"))]
        await gather(*works)
        assert house.order == ["first", "a0", "b0", "a1", "b1", "a2", "a3", "normal", "batch"]
        assert house.empty()

    run(main())


def test_batch_is_served_in_the_end_though_interactive_calls_never_cease() -> None:
    async def main() -> None:
        house = House(1, ageing_s=5.0)

        async def steady(tenant: str) -> None:
            for _ in range(40):
                await house.call(tenant, house.ticket(tenant))

        batch = asyncio.create_task(house.call("batch", house.ticket("c", "batch")))
        await gather(steady("a"), steady("b"))
        slot = await batch
        assert slot is not None
        assert slot.waited_s <= 2 * 5.0 + 4.0
        assert house.empty()

    run(main())


def test_a_full_queue_evicts_the_flood_and_not_the_newcomer() -> None:
    async def main() -> None:
        house = House(1, queue=5)
        works = [house.call("first", house.ticket("x"))]
        works += [house.call(f"flood{place}", house.ticket("flood")) for place in range(8)]
        works += [house.call("modest0", house.ticket("modest")), house.call("modest1", house.ticket("modest"))]
        await gather(*works)
        assert [name for name, _ in house.refused] == [f"flood{place}" for place in (5, 6, 7, 4, 3)]
        assert {error.code for _, error in house.refused} == {"queue_full"}
        assert house.order[1:4] == ["flood0", "modest0", "flood1"]
        assert house.empty()

    run(main())


def test_without_a_queue_a_full_gate_refuses() -> None:
    async def main() -> None:
        house = House(1, queue=0)
        await gather(house.call("in", house.ticket()), house.call("out", house.ticket()))
        assert [(name, error.code, error.status) for name, error in house.refused] == [("out", "queue_full", 503)]
        assert house.empty()

    run(main())


def test_a_wait_longer_than_the_deadline_is_refused_at_once_with_the_time_to_come_back() -> None:
    async def main() -> None:
        house = House(1, queue_wait_s=60.0)
        for place in range(5):
            await house.call(f"warm{place}", house.ticket())
        waiting = [asyncio.create_task(house.call(f"w{place}", house.ticket())) for place in range(10)]
        await asyncio.sleep(0)
        at = house.clock.monotonic()
        assert await house.call("late", house.ticket(within=5.0)) is None
        assert house.clock.monotonic() == at
        error = house.refused[0][1]
        assert (error.code, error.status) == ("queue_timeout", 503)
        assert error.retry_after == pytest.approx(10.0, rel=0.25)
        assert "x-headgate-timeout-s" in error.message
        assert await house.call("other", house.ticket("other", within=5.0)) is not None  # its own turn comes soon
        await gather(*(asyncio.wait_for(task, None) for task in waiting))
        assert house.empty()

    run(main())


def test_a_call_that_waits_in_vain_is_refused_when_its_time_is_over() -> None:
    async def main() -> None:
        house = House(1, queue_wait_s=3.0)
        stuck = await house.gate.enter(house.ticket())
        await gather(house.call("a", house.ticket(within=2.0)), house.call("b", house.ticket()))
        assert [(name, error.code) for name, error in house.refused] == [("a", "queue_timeout"), ("b", "queue_timeout")]
        assert house.clock.monotonic() == pytest.approx(3.0)
        assert house.gate.waiting == 0
        stuck.leave()
        assert house.empty()

    run(main())


def test_who_leaves_while_waiting_frees_everything_though_its_neighbour_sleeps_for_ever() -> None:
    async def main() -> None:
        for seed in range(30):
            rng = random.Random(seed)
            house = House(2, queue=100)
            asleep = [await house.gate.enter(house.ticket()), await house.gate.enter(house.ticket())]
            tasks = [
                asyncio.create_task(house.call(str(place), house.ticket(rng.choice("abc")))) for place in range(20)
            ]
            await asyncio.sleep(0)
            for task in rng.sample(tasks, 10):
                if rng.random() < 0.3 and asleep:
                    asleep.pop().leave()  # in the very turn in which somebody leaves
                task.cancel()
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
            for slot in asleep:
                slot.leave()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert len(house.order) >= 10
            assert house.empty()

    run(main())


def test_a_slot_that_comes_in_the_turn_of_the_cancellation_is_not_lost() -> None:
    async def main() -> None:
        house = House(1)
        slot = await house.gate.enter(house.ticket())
        waiter = asyncio.create_task(house.call("gone", house.ticket()))
        await asyncio.sleep(0)
        slot.leave()  # the slot is the waiter's now, who has not run since
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        assert house.order == []
        assert house.empty()

    run(main())


def test_new_settings_let_in_who_waits() -> None:
    async def main() -> None:
        house = House(1)
        held = await house.gate.enter(house.ticket())
        tasks = [asyncio.create_task(house.call(str(place), house.ticket())) for place in range(3)]
        await asyncio.sleep(0)
        house.gate.use(Fixed(3), GateSettings())
        assert (house.gate.limit, house.gate.active, house.gate.waiting) == (3, 3, 1)
        await gather(*(asyncio.wait_for(task, None) for task in tasks))
        held.leave()
        assert house.empty()

    run(main())


def test_what_slots_tell_moves_an_adaptive_limit() -> None:
    async def main() -> None:
        adaptive = Adaptive(AdaptiveSettings(initial=100, min=2, max=100))
        house = House(adaptive)
        few = [await house.gate.enter(house.ticket()) for _ in range(3)]
        few[2].leave(ok=False)
        assert house.gate.limit == 40
        for slot in few:
            slot.leave()
        for _ in range(100):
            slots = [await house.gate.enter(house.ticket()) for _ in range(house.gate.limit)]
            await asyncio.sleep(1.0)
            for slot in slots:
                slot.observe(1.0, "stream")
                slot.leave()
        assert house.gate.limit == 100
        assert house.empty()

    run(main())


@pytest.mark.parametrize("load", [1.5, 3.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_estimate_of_waiting_is_honest(load: float, seed: int) -> None:
    """One tenant floods, four are modest; each sees within 25 % of what it was told, over its calls."""
    seconds, slots, service = 150.0, 10, 0.5
    told: dict[str, list[tuple[float, float]]] = {}

    async def main() -> None:
        house, rng = House(slots, queue=500), random.Random(seed)

        async def one(tenant: str, cost: int) -> None:
            ticket = house.ticket(tenant, cost=cost)
            expected = house.gate.expected_wait(ticket)
            slot = await house.call(tenant, ticket, service * cost / 1_000)
            if slot is not None and slot.entered > 50:
                told.setdefault(tenant, []).append((expected, slot.waited_s))

        async def arrivals(tenant: str, share: float) -> None:
            async with asyncio.TaskGroup() as group:
                while house.clock.monotonic() < seconds:
                    await asyncio.sleep(rng.expovariate(slots / service * load * share))
                    group.create_task(one(tenant, rng.randint(200, 1_800)))

        await gather(arrivals("flood", 0.8), *(arrivals(f"modest{place}", 0.05) for place in range(4)))
        assert house.empty()

    run(main())
    assert len(told) == 5
    for tenant, waits in told.items():
        expected, waited = mean(each for each, _ in waits), mean(each for _, each in waits)
        assert abs(expected - waited) <= 0.25 * waited, (tenant, expected, waited)
