"""What our own loop adds to a latency is not taken for the backend's."""

import asyncio
import time
from pathlib import Path

from headgate.core.clock import SystemClock
from headgate.core.target import Routed, Target
from headgate.core.tasks import Tasks
from headgate.core.usage import Usage
from headgate.pipeline.course import Step
from headgate.pipeline.loop_lag import LoopLag
from headgate.pipeline.meter import FLOOR_S, LAPS
from tests.pipeline.spine import Bodied, Spine, until


def test_a_loop_that_stands_still_is_noticed_and_forgotten() -> None:
    async def main() -> None:
        lag, tasks = LoopLag(SystemClock()), Tasks()
        tasks.spawn(lag.run())
        await asyncio.sleep(0.05)
        time.sleep(0.3)  # what a busy loop does
        await until(lambda: lag.seconds > 0.2)
        await until(lambda: lag.seconds < 0.1)
        await tasks.aclose()

    asyncio.run(main())


def test_the_latency_told_to_the_gate_is_that_of_the_backend(tmp_path: Path) -> None:
    async def main() -> None:
        house = Spine(tmp_path, [Bodied("a", b"{}", Usage(input=3, output=1))])
        call = house.call(stream=False)
        lease = await house.admission.admit(house.principal, call, lambda call: Routed((Target("a", call.model),)))
        hold = lease.first_hold()
        assert hold is not None
        attempt = house.meter.begin(call).attempt(call, Step(lease.routed.targets[0], "first"), hold)
        attempt.begun_s = 1.0
        assert attempt.latency(0.0) == (1.0 + FLOOR_S, "chat")
        assert attempt.latency(0.1) == (1.0 - LAPS * 0.1 + FLOOR_S, "chat")
        assert attempt.latency(5.0) == (FLOOR_S, "chat")

    asyncio.run(main())
