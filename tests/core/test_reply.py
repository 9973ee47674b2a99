import asyncio
from collections.abc import Callable, Coroutine

import pytest

from headgate.core.reply import Reply


class Leases:
    """Writes down the order in which leases come back."""

    def __init__(self) -> None:
        self.back: list[str] = []

    def now(self, name: str) -> Callable[[], None]:
        return lambda: self.back.append(name)

    def later(self, name: str) -> Callable[[], Coroutine[None, None, None]]:
        async def release() -> None:
            await asyncio.sleep(0)
            self.back.append(name)

        return release

    def broken(self, name: str, *, wait: bool) -> Callable[[], Coroutine[None, None, None] | None]:
        async def release() -> None:
            await asyncio.sleep(0)
            raise OSError(name)

        def release_now() -> None:
            raise OSError(name)

        return release if wait else release_now


def test_leases_come_back_in_reverse_order_whether_they_wait_or_not() -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply()
        for number in range(6):
            reply.own(leases.later(str(number)) if number % 2 else leases.now(str(number)))
        await reply.aclose()
        assert leases.back == list("543210")
        assert reply.closed

    asyncio.run(main())


def test_each_lease_comes_back_once_however_often_the_reply_is_closed() -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply()
        reply.own(leases.now("a"))
        reply.own(leases.later("b"))
        await asyncio.gather(reply.aclose(), reply.aclose(), reply.aclose())
        await reply.aclose()
        assert leases.back == ["b", "a"]

    asyncio.run(main())


def test_closing_without_waiting_leases_needs_no_turn_of_the_loop() -> None:
    leases, reply = Leases(), Reply()
    reply.own(leases.now("a"))
    closing = reply.aclose()
    with pytest.raises(StopIteration):
        closing.send(None)
    assert leases.back == ["a"]


@pytest.mark.parametrize("wait", [True, False])
def test_a_release_that_fails_does_not_stop_the_others(wait: bool) -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply()
        reply.own(leases.now("a"))
        reply.own(leases.broken("x", wait=wait))
        reply.own(leases.later("b"))
        reply.own(leases.broken("y", wait=not wait))
        reply.own(leases.now("c"))
        with pytest.raises(ExceptionGroup) as raised:
            await reply.aclose()
        assert [str(error) for error in raised.value.exceptions] == ["y", "x"]
        assert leases.back == ["c", "b", "a"]

    asyncio.run(main())


def test_failures_of_leases_that_do_not_wait_are_raised_too() -> None:
    leases, reply = Leases(), Reply()
    reply.own(leases.now("a"))
    reply.own(leases.broken("x", wait=False))
    with pytest.raises(ExceptionGroup):
        asyncio.run(reply.aclose())
    assert leases.back == ["a"]


def test_a_caller_who_is_cancelled_while_closing_still_gets_every_lease_back() -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply()
        gate, reached = asyncio.Event(), asyncio.Event()

        async def slow() -> None:
            reached.set()
            await gate.wait()
            leases.back.append("slow")

        reply.own(leases.later("first"))
        reply.own(slow)
        caller = asyncio.create_task(reply.aclose())
        await reached.wait()
        caller.cancel()
        await asyncio.sleep(0)
        assert leases.back == []
        gate.set()
        await asyncio.wait({caller})
        assert caller.cancelled()
        assert leases.back == ["slow", "first"]

    asyncio.run(main())


def test_a_caller_who_is_cancelled_in_the_turn_in_which_the_leases_come_back_still_learns_of_it() -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply()

        async def at_once() -> None:
            caller.cancel()
            leases.back.append("at once")

        reply.own(leases.now("first"))
        reply.own(at_once)
        caller = asyncio.create_task(reply.aclose())
        await asyncio.wait({caller})
        assert caller.cancelled()
        assert leases.back == ["at once", "first"]

    asyncio.run(main())


def test_a_time_limit_inside_a_release_ends_that_release_and_not_the_caller() -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply()

        async def limited() -> None:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()

        reply.own(leases.now("first"))
        reply.own(limited)
        with pytest.raises(ExceptionGroup) as raised:
            await reply.aclose()
        assert [type(error) for error in raised.value.exceptions] == [TimeoutError]
        assert leases.back == ["first"]
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()

    asyncio.run(main())


def test_a_release_that_hangs_is_abandoned_and_the_rest_come_back() -> None:
    async def main() -> None:
        leases, reply = Leases(), Reply(closing_s=0.02)

        async def hang() -> None:
            await asyncio.Event().wait()

        reply.own(leases.now("a"))
        reply.own(leases.later("b"))
        reply.own(hang)
        reply.own(leases.now("c"))
        with pytest.raises(ExceptionGroup) as raised:
            await reply.aclose()
        assert [type(error) for error in raised.value.exceptions] == [TimeoutError]
        assert leases.back == ["c", "b", "a"]

    asyncio.run(main())


def test_nothing_can_be_owned_by_a_closed_reply() -> None:
    async def main() -> None:
        reply = Reply()
        await reply.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            reply.own(lambda: None)

    asyncio.run(main())
