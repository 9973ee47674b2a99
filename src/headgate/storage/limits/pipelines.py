"""Scripts that are asked for together travel together: one write, one read, and the client's own cost once for all.

A Redis client in Python costs more than the server does. Where one call waits alone nothing changes; where hundreds
do, what gathered while the pipelines before were on their way is the next pipeline.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from headgate.core.clock import Clock
from headgate.core.tasks import Tasks
from headgate.storage.limits.scripts import Script

LANES = 2
"""Pipelines on their way at once."""
BATCH_MAX = 32
"""Scripts in one: what others wait for meanwhile stays below some milliseconds."""


class _Wish(Struct, eq=False):
    script: Script
    arguments: Sequence[object]
    answer: "asyncio.Future[Any]"


class Pipelines:
    """`timeout_s` bounds a pipeline's round trip. While the server answers, a burst waits its turn, however long it is;
    a round trip in which it answers nobody fails all that wait. A connection that ends, or stands still while others do
    not, fails those that travel on it.
    """

    def __init__(self, client: Redis, timeout_s: float, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.answered_at = float("-inf")
        """When the server last answered (monotonic)."""
        self.trip_s = 0.0
        """How long that took."""
        self._timeout_s = timeout_s
        self._wishes: deque[_Wish] = deque()
        self._carrying = 0
        self._tasks = Tasks()

    async def evaluate(self, script: Script, arguments: Sequence[object]) -> Any:
        """What the script answers. Raises what the client raises, and `TimeoutError`."""
        loop = asyncio.get_running_loop()
        wish = _Wish(script, arguments, loop.create_future())
        self._wishes.append(wish)
        if self._carrying < LANES:
            self._carrying += 1
            self._tasks.spawn(self._carry(), "limits pipeline")
        return await wish.answer

    async def aclose(self) -> None:
        await self._tasks.aclose()
        while self._wishes:
            self._wishes.popleft().answer.cancel()

    async def _carry(self) -> None:
        """Until nothing is wished for."""
        try:
            while self._wishes:
                batch = [self._wishes.popleft() for _ in range(min(BATCH_MAX, len(self._wishes)))]
                batch = [wish for wish in batch if not wish.answer.done()]  # who has left asks for nothing
                if batch:
                    await self._send(batch)
        finally:
            self._carrying -= 1

    async def _send(self, batch: list[_Wish]) -> None:
        began = self._clock.monotonic()
        try:
            answers = await self._execute(batch, lambda script: ("EVALSHA", script.sha))
            # A server that was restarted, or failed over: of these nothing ran.
            unknown = [place for place, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
            if unknown:
                again = await self._execute([batch[place] for place in unknown], lambda script: ("EVAL", script.text))
                for place, answer in zip(unknown, again, strict=True):
                    answers[place] = answer
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            if isinstance(error, (TimeoutError, RedisTimeoutError)) and self.answered_at < began:
                batch += self._wishes
                self._wishes.clear()
            for wish in batch:
                if not wish.answer.done():
                    wish.answer.set_exception(error)
            return
        except BaseException:
            for wish in batch:
                wish.answer.cancel()
            raise
        for wish, answer in zip(batch, answers, strict=True):
            if wish.answer.done():
                continue
            if isinstance(answer, Exception):
                wish.answer.set_exception(answer)
            else:
                wish.answer.set_result(answer)

    async def _execute(self, batch: list[_Wish], command: Callable[[Script], tuple[str, str]]) -> list[Any]:
        began = self._clock.monotonic()
        async with asyncio.timeout(self._timeout_s):
            if len(batch) == 1:
                (wish,) = batch
                answers = [await _kept(self._client, *command(wish.script), *wish.arguments)]
            else:
                pipeline = self._client.pipeline(transaction=False)
                queue: Callable[..., Any] = pipeline.execute_command
                for wish in batch:
                    queue(*command(wish.script), *wish.arguments)
                answers = await pipeline.execute(raise_on_error=False)
        self.answered_at = self._clock.monotonic()
        self.trip_s = self.answered_at - began
        return answers


async def _kept(client: Redis, *command: object) -> Any:
    """The answer; the server's own error as a value, as a pipeline gives it."""
    execute: Callable[..., Any] = client.execute_command
    try:
        return await execute(*command)
    except ResponseError as error:
        return error
