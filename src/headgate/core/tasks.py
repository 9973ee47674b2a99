"""Every task has an owner: the only place that creates tasks."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Owns background tasks: keeps them referenced, cancels and awaits them at the end, reports what failed.

    `limit` bounds how many may run at once; `spawn` raises `RuntimeError` beyond it.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._running: set[asyncio.Task[Any]] = set()
        self.failures: list[BaseException] = []

    def __len__(self) -> int:
        return len(self._running)

    @property
    def full(self) -> bool:
        return len(self._running) >= self._limit

    def spawn(self, work: Coroutine[Any, Any, Any], name: str | None = None) -> asyncio.Task[Any]:
        if self.full:
            work.close()
            raise RuntimeError(f"more than {self._limit} background tasks")
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failures.append(error)
            del self.failures[:-100]

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Waits `grace_s` seconds for the tasks to end by themselves, then cancels and awaits them."""
        if self._running and grace_s > 0:
            await asyncio.wait(set(self._running), timeout=grace_s)
        while self._running:
            running = set(self._running)
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=5.0)


async def finish(work: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Runs clean-up that must end even if the caller is cancelled meanwhile; cancellation is raised again after it.

    Bounded: after `seconds` the work itself is cancelled, and again every half second until it ends. What it raised is
    raised here, or is the cause of the caller's cancellation.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    try:
        await asyncio.sleep(0)  # most clean-up ends in its first turn, which comes before ours: it needs no timer
    except asyncio.CancelledError as error:
        cancelled = error
    while not task.done():
        left = end - loop.time()
        if left <= 0:
            task.cancel()
        try:
            await asyncio.wait({task}, timeout=max(left, 0.5))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled from (None if task.cancelled() else task.exception())
    if not task.cancelled():
        task.result()
