"""What runs on threads in a server, in turns of the event loop here: the same seed gives the same history."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.core.errors import Overloaded
from headgate.storage.sql.port import Sql, Threads

T = TypeVar("T")
Fate = Literal["before", "after"]
"""A transaction fails before its commit, or after it: then only the answer is lost."""
TURNS = 3
"""Turns of the loop that a transaction waits, before it runs and after: others act meanwhile, and cancellations hit."""


class Inline(ThreadPoolExecutor):
    """For `asyncio.to_thread`: runs what it is given at once."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except OSError as error:
            future.set_exception(error)
        return future


class InlineSql(Sql):
    """One process's way to a database whose tables are made. It dies with the process, and fails when told to."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine, Threads(1), 10.0)
        self._engine = engine
        self.fates: list[Fate] = []
        """Of the next transactions that write."""
        self.dead = False
        self.failed = 0

    async def run(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        fate = self.fates.pop(0) if self.fates else None
        await self._wait()
        if fate == "before":
            raise self._gone()
        with self._engine.begin() as db:
            result = work(db)
        if fate == "after":
            raise self._gone()
        await self._wait()
        return result

    async def read(self, work: Callable[[Connection], T], *, timeout_s: float | None = None) -> T:
        await self._wait()
        with self._engine.begin() as db:
            result = work(db)
        await self._wait()
        return result

    async def _wait(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)
        if self.dead:
            raise Overloaded("The process is dead.")

    def _gone(self) -> Overloaded:
        self.failed += 1
        return Overloaded("The database is away.", retry_after=1.0)
