"""The calls with an `Idempotency-Key` that this process has in hand: each a task of its own, which no caller owns."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Literal, Protocol

from headgate.api.recording import Follower, Memory, Recording
from headgate.core.errors import Overloaded
from headgate.core.tasks import Tasks
from headgate.ledger.idempotency.ask import Ask, Found, IdempotencySettings, Kept

MIB = 1024 * 1024
State = Literal["claiming", "elsewhere", "here", "kept", "over"]


class Turns(Protocol):
    """Who runs the call of a key, over all replicas. Raises `Overloaded` where the database is away."""

    async def take(self, ask: Ask) -> Found:
        """Where it gives `mine`, `finish` or `release` must follow. Raises `Conflict`."""

    async def look(self, ask: Ask) -> Found:
        """As `take`, without taking."""

    async def finish(self, ask: Ask, kept: Kept) -> None:
        """Keeps a complete answer."""

    async def release(self, ask: Ask) -> None:
        """Lets the next call with this key run anew."""


class Run:
    """One call from its claim until its answer is kept, or its claim released.

    `state`: `claiming` until it is known whose the call is; `elsewhere` while another replica runs it; `here` while
    this process does; `kept` where its answer was there already; `over` where nothing came of it and asking again
    may help.
    """

    def __init__(self, ask: Ask, recording: Recording) -> None:
        self.ask = ask
        self.recording = recording
        self.state: State = "claiming"
        self.in_hand = True
        """Whoever comes with its key is sent here."""
        self.task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def become(self, state: State) -> None:
        self.state = state
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def while_in(self, *states: State) -> None:
        """Returns once it is in none of these states, or has failed."""
        while self.state in states and self.recording.error is None:
            await self._changed.wait()

    async def begun(self) -> None:
        """Returns once its answer begins, or it is known that there will be none."""
        await self.while_in("claiming", "elsewhere")
        if self.state != "over":
            await self.recording.begun()


class Runs:
    """By slot; at most `settings.calls`. `count` is told what became of each call with a key, for the metrics."""

    def __init__(self, turns: Turns, settings: IdempotencySettings, count: Callable[[str], None]) -> None:
        self.turns = turns
        self.settings = settings
        self.count = count
        self._memory = Memory(int(settings.memory_mb * MIB))
        self._tasks = Tasks(settings.calls)
        self._by_slot: dict[str, Run] = {}

    def __len__(self) -> int:
        return len(self._by_slot)

    @property
    def held(self) -> int:
        """Bytes of all their recordings."""
        return self._memory.used

    def get(self, slot: str) -> Run | None:
        return self._by_slot.get(slot)

    def start(
        self,
        ask: Ask,
        work: Callable[[Run], Coroutine[Any, Any, None]],
        ended: Callable[[Run, asyncio.Task[None]], None],
    ) -> Run:
        """Runs `work`, then `ended`; one of them must `drop` the run. Raises `Overloaded` where that is too many."""
        run = Run(ask, Recording(int(self.settings.answer_mb * MIB), self._memory))
        try:
            task = self._tasks.spawn(work(run), "idempotent call")
        except RuntimeError as error:
            raise Overloaded(
                f"{self.settings.calls} calls with an Idempotency-Key are in progress, the most this server takes "
                "(idempotency.calls). Try again shortly.",
                retry_after=1.0,
            ) from error
        task.add_done_callback(partial(ended, run))
        run.task = task
        self._by_slot[ask.slot] = run
        return run

    def drop(self, run: Run) -> None:
        """From now on the database knows what became of it. Idempotent."""
        if run.in_hand:
            run.in_hand = False
            del self._by_slot[run.ask.slot]
            if not run.recording.followed:
                run.recording.forget()

    def leave(self, run: Run, follower: Follower) -> None:
        """Nobody needs to wait for another replica once nobody waits here."""
        run.recording.leave(follower)
        if run.recording.followed:
            return
        if run.state == "elsewhere" and run.task is not None:
            self.drop(run)
            run.task.cancel()
        if not run.in_hand:
            run.recording.forget()

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Lets all end within so many seconds, then ends them: their claims are released and their callers told."""
        await self._tasks.aclose(grace_s)
