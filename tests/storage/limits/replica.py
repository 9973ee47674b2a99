"""One replica of a fleet: asks for more than its share until told to stop, and prints when it was let in.

Run as a process: `python -m tests.storage.limits.replica URL PREFIX ALGORITHM AMOUNT WINDOW_S BURST SECONDS`.
"""

import asyncio
import os
import sys
import time
from typing import cast

from headgate.core.clock import SystemClock
from headgate.core.limiter import Cost, Plan
from headgate.core.policy import Algorithm
from headgate.storage.limits.redis import RedisLimiter
from tests.storage.limits.driver import rate


async def main(url: str, prefix: str, algorithm: str, *numbers: float) -> None:
    amount, window_s, burst, seconds = numbers
    plan = Plan(
        rates=(rate("r", amount, window_s, cast(Algorithm, algorithm), tokens=False, burst=burst, max_delay_s=0.5),)
    )
    limiter = RedisLimiter.at(url, SystemClock(), 20.0, prefix)
    end = time.monotonic() + seconds

    async def caller(name: int) -> None:
        number = 0
        while time.monotonic() < end:
            number += 1
            asked = time.monotonic()
            verdict = await limiter.reserve(f"{os.getpid()}.{name}.{number}", plan, Cost(), 60)
            if verdict.allowed:
                print(asked, time.monotonic())
            else:  # impatient: five times as often as told
                await asyncio.sleep(min(verdict.retry_after, 0.05) / 5)

    async with asyncio.TaskGroup() as group:
        for name in range(4):
            group.create_task(caller(name))
    await limiter.aclose()


if __name__ == "__main__":
    url, prefix, algorithm, *numbers = sys.argv[1:]
    asyncio.run(main(url, prefix, algorithm, *map(float, numbers)))
