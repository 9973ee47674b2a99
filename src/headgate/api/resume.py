"""Streams that outlive their connections: the answers in progress that a client may come back for.

Each runs in a task of its own. The caller who listens is served from memory; beside that, all frames go to the store
of streams, where any process finds them (`api/resumed.py`). Once nobody has followed for `grace_s` the answer is
cancelled, as it is when the caller of any other stream leaves.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import msgspec
from msgspec import Struct

from headgate.api.recording import KEPT_HEADERS, Memory
from headgate.api.relay import Pen
from headgate.api.tape import Tape
from headgate.core.call import Call, Operation
from headgate.core.clock import Clock
from headgate.core.errors import Bug, HeadgateError, Overloaded, Truncated
from headgate.core.reply import Header, Reply
from headgate.core.streams import StreamSettings, StreamStore, stream_key
from headgate.core.tasks import Tasks

MIB = 1024 * 1024
LINGER_S = 0.05
"""How long frames gather for one round trip to the store."""
RETRY_S, RETRY_S_MAX = 0.1, 2.0
"""How often a store that is away is told again."""
SEEN_S = 1.0
"""How long after a store is back those who follow are seen there."""
LATE_S = 5.0
"""How long after its end a stream's rest may wait for the store."""
CLOSING_S = 3.0

Produce = Callable[[Call, Reply, Pen], Awaitable[bytes]]
"""Writes all of a reply but its last bytes, and gives those."""
Count = Callable[[str], None]


class About(Struct, frozen=True):
    """What a stream is, for whoever resumes it."""

    operation: Operation
    model: str
    """As the caller named it: whoever resumes must be allowed to use it."""
    request: str
    """Hex SHA-256 of operation and body: the prompt itself is not kept."""
    headers: list[tuple[str, str]] = []
    """The reply's that tell of the answer."""

    def headers_bytes(self) -> list[Header]:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self.headers]


def fingerprint(call: Call) -> str:
    return hashlib.sha256(call.operation.encode() + b"\0" + call.raw).hexdigest()


class Run:
    """One answer in progress, from its call until the store knows its end."""

    def __init__(self, call: Call, key: str, tape: Tape) -> None:
        self.call = call
        self.key = key
        self.tape = tape
        self.task: asyncio.Task[None] | None = None
        self.watch: asyncio.Task[None] | None = None
        self.abandoned = False
        """It was cancelled since nobody followed."""


class Streams:
    """The resumable streams of this process; at most `settings.calls` in progress."""

    def __init__(
        self,
        store: StreamStore,
        settings: StreamSettings,
        clock: Clock,
        on_bug: Callable[[str, BaseException], None],
        count_resumed: Count,
        count_unkept: Count,
    ) -> None:
        """`count_resumed` is told what became of each attempt to resume, `count_unkept` why a stream cannot be."""
        self.store = store
        self.settings = settings
        self.clock = clock
        self.count_resumed = count_resumed
        self._count_unkept = count_unkept
        self._on_bug = on_bug
        self._memory = Memory(int(settings.memory_mb * MIB))
        self._runs = Tasks(settings.calls)
        self._pumps = Tasks(2 * settings.calls)
        self._watches = Tasks(2 * settings.calls)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def held(self) -> int:
        """Bytes of streams in this process: those on their way, and those kept in memory."""
        return self._memory.used + self.store.held

    def wanted(self, asked: bool | None) -> bool:
        """Whether a stream whose caller asks so (None: says nothing) is made resumable."""
        when = self.settings.resumable
        return when != "never" and (when == "always" if asked is None else asked)

    def start(
        self, call: Call, tenant: str, handle: Callable[[Call], Awaitable[Reply]], produce: Produce
    ) -> Run | None:
        """Begins the call; `leave` must follow. None where there are too many: then the caller serves it plain."""
        if len(self._runs) >= self.settings.calls or len(self._pumps) >= 2 * self.settings.calls:
            self._count_unkept("too_many")
            return None
        key = stream_key(tenant, call.id)
        tape = Tape(call.id, int(self.settings.stream_mb * MIB), self._memory, partial(self._elsewhere, key))
        run = Run(call, key, tape)
        run.task = self._runs.spawn(self._carry_out(run, handle, produce), "resumable stream")
        run.task.add_done_callback(partial(self._ended, run))
        pump = self._pumps.spawn(self._pump(run), "stream's way to the store")
        pump.add_done_callback(partial(self._report, run))
        return run

    def leave(self, run: Run, begun: bool) -> None:
        """The caller does not listen any more. Where no byte has reached him there is nothing he could resume."""
        run.tape.caller_left()
        if not run.tape.over:
            run.watch = self._watches.spawn(self._grace(run, begun), "abandoned stream")
            run.watch.add_done_callback(partial(self._report, run))

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Lets all end within so many seconds, then ends them; the store is told."""
        await self._runs.aclose(grace_s)
        await self._watches.aclose()
        await self._pumps.aclose(CLOSING_S)

    # The answer

    async def _carry_out(self, run: Run, handle: Callable[[Call], Awaitable[Reply]], produce: Produce) -> None:
        try:
            last = await self._perform(run, handle, produce)
        except HeadgateError as error:
            run.tape.fail(error)
        else:
            run.tape.end(last)

    async def _perform(self, run: Run, handle: Callable[[Call], Awaitable[Reply]], produce: Produce) -> bytes:
        """Gives the last bytes once the reply is closed: its receipt is written, its limits are settled."""
        reply = await handle(run.call)
        reason: HeadgateError | None = None
        try:
            run.tape.begin(reply.headers)
            return await produce(run.call, reply, run.tape)
        except HeadgateError as error:
            reason = error
            raise
        finally:
            await reply.aclose(reason)

    def _ended(self, run: Run, task: asyncio.Task[None]) -> None:
        """Whatever ends the task, whoever follows learns it; a fault of ours is logged, since nobody may be there."""
        if run.watch is not None and not run.abandoned:
            run.watch.cancel()
        if task.cancelled():
            run.tape.fail(self._abandoned() if run.abandoned else _stopping())
        elif (error := task.exception()) is not None:
            self._on_bug(run.call.id, error)
            run.tape.fail(Bug(f"An internal error happened. Give this id when you report it: {run.call.id}."))

    def _report(self, run: Run, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_bug(run.call.id, error)

    def _abandoned(self) -> HeadgateError:
        return Truncated(
            f"The answer was cancelled, since nobody had followed it for {self.settings.grace_s:g} s "
            "(streams.grace_s). Send the call anew.",
            code="stream_abandoned",
        )

    async def _grace(self, run: Run, begun: bool) -> None:
        """Cancels the answer once nobody has followed it for long enough, here or in another process."""
        left = self.settings.grace_s if begun and run.tape.store is not None else 0.0
        while left > 0:
            await self.clock.sleep(left)
            left = await self._followed(run)
        if run.task is not None and not run.task.done():
            run.abandoned = True
            run.task.cancel()

    async def _elsewhere(self, key: str) -> bool:
        """Whether somebody follows it from the store, as far as that can be told now."""
        try:
            return await self.store.followed(key) > 0
        except Overloaded:
            return False

    async def _followed(self, run: Run) -> float:
        """For how long somebody counts as following. Whoever follows waits for a store that is away, up to a lease;
        when it is back he needs a moment to be seen there.
        """
        until = self.clock.monotonic() + self.settings.lease_s
        least = 0.0
        while self.clock.monotonic() <= until:
            try:
                return max(least, await self.store.followed(run.key))
            except Overloaded:
                least = SEEN_S
                await self.clock.sleep(RETRY_S)
        return 0.0

    # The way to the store

    async def _pump(self, run: Run) -> None:
        tape, store, place = run.tape, self.store, run.tape.store
        await tape.begun()
        if tape.headers is None or place is None:  # refused before it began: there is no stream
            tape.store_left()
            return
        told = False
        try:
            end = False
            told = await self._tell(run, partial(store.begin, run.key, self._about(run)))
            while told and not end:
                first = place.at + 1
                frames, end = await tape.more(place)
                told = await self._tell(run, partial(store.append, run.key, first, frames))
                if not end:
                    await self.clock.sleep(LINGER_S)
            told = told and await self._tell(run, partial(store.end, run.key, place.at))
        finally:
            tape.store_left()
            if not told:
                self._count_unkept("store")
                with suppress(Overloaded):
                    await store.forget(run.key)

    def _about(self, run: Run) -> bytes:
        call, headers = run.call, run.tape.headers or ()
        kept = [header for header in headers if header[0].startswith(KEPT_HEADERS)]
        texts = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept]
        return msgspec.json.encode(About(call.operation, call.model, fingerprint(call), texts))

    async def _tell(self, run: Run, write: Callable[[], Awaitable[None]]) -> bool:
        """Whether the store was told, sooner or later; never where the tape has given it up meanwhile."""
        clock, pause = self.clock, RETRY_S
        until: float | None = None
        while run.tape.store is not None:
            try:
                await write()
                return True
            except Overloaded:
                if run.tape.over:
                    until = until or clock.monotonic() + LATE_S
                if until is not None and clock.monotonic() > until:
                    return False
                await clock.sleep(pause)
                pause = min(2 * pause, RETRY_S_MAX)
        return False


def _stopping() -> HeadgateError:
    return Overloaded("The server is stopping; try again.", retry_after=1.0)
