import asyncio

import msgspec
import pytest

from headgate.core.deadline import Deadline, Timeouts
from tests.clock import VirtualClock


def test_what_remains_shrinks_with_the_clock_and_stops_at_zero() -> None:
    clock = VirtualClock()
    clock.jump(7)
    deadline = Deadline.after(clock, 3.0)
    assert deadline.at == 10.0
    assert deadline.remaining(clock) == 3.0
    clock.jump(2)
    assert deadline.remaining(clock) == 1.0
    clock.jump(100)
    assert deadline.remaining(clock) == 0.0


def test_a_scope_of_a_passed_deadline_ends_at_its_first_wait() -> None:
    async def main() -> None:
        clock = VirtualClock()
        deadline = Deadline.after(clock, 1.0)
        clock.jump(2)
        with pytest.raises(TimeoutError):
            async with deadline.within(clock):
                await asyncio.Event().wait()

    asyncio.run(main())


@pytest.mark.parametrize(("asked", "given"), [(None, 60.0), (20.0, 20.0), (90.0, 60.0)])
def test_a_scope_lasts_as_asked_but_never_past_the_deadline(asked: float | None, given: float) -> None:
    async def main() -> None:
        clock = VirtualClock()
        deadline = Deadline.after(clock, 100.0)
        clock.jump(40)
        loop = asyncio.get_running_loop()
        before = loop.time()
        end = deadline.within(clock, asked).when()
        assert end is not None
        assert before + given <= end <= loop.time() + given

    asyncio.run(main())


def test_an_unknown_timeout_is_refused_by_name() -> None:
    with pytest.raises(msgspec.ValidationError, match="conect_s"):
        msgspec.convert({"conect_s": 1.0}, Timeouts)
