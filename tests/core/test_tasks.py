import asyncio

import pytest

from headgate.core.tasks import Tasks, finish


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _fail(message: str) -> None:
    raise ValueError(message)


async def _within(seconds: float, tasks: Tasks, count: int) -> None:
    async with asyncio.timeout(seconds):
        while len(tasks) != count:
            await asyncio.sleep(0)


def test_tasks_are_counted_while_they_run() -> None:
    async def main() -> None:
        tasks = Tasks()
        gate = asyncio.Event()
        task = tasks.spawn(gate.wait(), name="waiter")
        assert (len(tasks), task.get_name()) == (1, "waiter")
        gate.set()
        assert await task
        await _within(5, tasks, 0)

    asyncio.run(main())


def test_a_task_beyond_the_limit_is_refused_and_its_work_closed() -> None:
    async def main() -> None:
        tasks = Tasks(limit=2)
        tasks.spawn(_for_ever())
        tasks.spawn(_for_ever())
        with pytest.raises(RuntimeError, match="more than 2 background tasks"):
            tasks.spawn(_for_ever())  # an unclosed coroutine would warn, and warnings are errors
        await tasks.aclose()
        tasks.spawn(_for_ever())
        await tasks.aclose()

    asyncio.run(main())


def test_closing_cancels_and_awaits_every_task() -> None:
    async def main() -> None:
        tasks = Tasks()
        running = [tasks.spawn(_for_ever()) for _ in range(20)]
        await tasks.aclose()
        assert len(tasks) == 0
        assert all(task.cancelled() for task in running)
        assert tasks.failures == []

    asyncio.run(main())


def test_closing_with_grace_lets_tasks_end_by_themselves() -> None:
    async def main() -> None:
        tasks = Tasks()
        gate = asyncio.Event()
        task = tasks.spawn(gate.wait())
        asyncio.get_running_loop().call_soon(gate.set)
        await tasks.aclose(grace_s=30)
        assert task.done()
        assert not task.cancelled()

    asyncio.run(main())


def test_closing_waits_for_a_task_that_cleans_up_slowly() -> None:
    async def main() -> None:
        tasks = Tasks()
        cleaned = []

        async def work() -> None:
            try:
                await _for_ever()
            finally:
                for _ in range(10):
                    await asyncio.sleep(0)
                cleaned.append(True)

        tasks.spawn(work())
        await asyncio.sleep(0)
        await tasks.aclose()
        assert cleaned == [True]

    asyncio.run(main())


def test_closing_also_ends_tasks_that_tasks_started_meanwhile() -> None:
    async def main() -> None:
        tasks = Tasks()
        late: list[asyncio.Task[None]] = []

        async def parent() -> None:
            try:
                await _for_ever()
            finally:
                late.append(tasks.spawn(_for_ever()))

        tasks.spawn(parent())
        await asyncio.sleep(0)
        await tasks.aclose()
        assert len(tasks) == 0
        assert late[0].cancelled()

    asyncio.run(main())


def test_failures_are_kept_for_the_owner_and_only_the_last_hundred() -> None:
    async def main() -> None:
        tasks = Tasks()
        for number in range(120):
            tasks.spawn(_fail(str(number)))
        await _within(5, tasks, 0)
        assert [str(error) for error in tasks.failures] == [str(number) for number in range(20, 120)]

    asyncio.run(main())


def test_finish_gives_back_what_the_work_raised() -> None:
    with pytest.raises(ValueError, match="spilt"):
        asyncio.run(finish(_fail("spilt"), 5))


def test_finish_ends_the_work_even_if_the_caller_is_cancelled_again_and_again() -> None:
    async def main() -> None:
        gate, began, done = asyncio.Event(), asyncio.Event(), []

        async def work() -> None:
            began.set()
            await gate.wait()
            done.append(True)

        caller = asyncio.create_task(finish(work(), 60))
        await began.wait()
        for _ in range(3):
            caller.cancel()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert not caller.done()
        gate.set()
        await asyncio.wait({caller})
        assert done == [True]
        assert caller.cancelled()

    asyncio.run(main())


def test_a_failure_under_cancellation_is_the_cause_of_the_cancellation() -> None:
    async def main() -> None:
        gate, began, seen = asyncio.Event(), asyncio.Event(), []

        async def work() -> None:
            began.set()
            await gate.wait()
            await _fail("spilt")

        async def call() -> None:
            try:
                await finish(work(), 60)
            except asyncio.CancelledError as error:
                seen.append(str(error.__cause__))
                raise

        caller = asyncio.create_task(call())
        await began.wait()
        caller.cancel()
        await asyncio.sleep(0)
        gate.set()
        await asyncio.wait({caller})
        assert caller.cancelled()
        assert seen == ["spilt"]

    asyncio.run(main())


def test_finish_cancels_work_that_takes_too_long() -> None:
    async def main() -> None:
        ended = []

        async def work() -> None:
            try:
                await _for_ever()
            finally:
                ended.append(True)

        await finish(work(), 0.01)
        assert ended == [True]

    asyncio.run(main())


def test_a_timeout_around_finish_is_seen_after_the_work_has_ended() -> None:
    async def main() -> None:
        gate, done = asyncio.Event(), []

        async def work() -> None:
            await gate.wait()
            done.append(True)

        asyncio.get_running_loop().call_later(0.05, gate.set)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await finish(work(), 60)
        assert done == [True]

    asyncio.run(main())
