"""One engine process in our care: started, watched, replaced when it dies or hangs, put to sleep, ended.

  launch            Ready                 sleep
─────────► LOADING ───────► READY ─────────────────────► ASLEEP
              ▲  │            │                             │
              │  └─ LoadFailed│─► REFUSED                   │
              │               │ it ended, or hung           │
              ├── RESTARTING ◄┘                             │
              └────────────────────── awake ────────────────┘

An engine that sleeps has no process, so its memory is really given back. What a process says about itself (loading,
ready, refused) is taken in here; everything else goes to the one who asked.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Literal, Protocol

from headgate.core.clock import Clock
from headgate.core.errors import Failed, HeadgateError, Overloaded
from headgate.core.tasks import Tasks
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.memory import MEMORY_FULL
from headgate.engine.front.waking import Waking
from headgate.engine.front.watch import LOOKS, Watch
from headgate.engine.settings import EngineSettings

FIRST_RESTART_S = 0.1
LONGEST_RESTART_S = 10.0
ENDING_S = 1.0
"""A process that has closed the channel has so long to end by itself."""
STABLE_S = 30.0
"""A process that lived this long was healthy: the next restart waits shortly again."""

State = Literal["loading", "ready", "asleep", "restarting", "refused", "closed"]


def unservable() -> Failed:
    """For callers: what is wrong with the folder is for the log."""
    return Failed("The engine's model cannot be served; the server's log says why.", code="model_unservable")


def no_memory() -> Overloaded:
    """For callers: how much there is and who has it is for the log."""
    return Overloaded("There is no memory for this model now; others are in use.", code=MEMORY_FULL, retry_after=1.0)


class Owner(Protocol):
    """Who speaks with the process."""

    def received(self, message: wire.FromWorker) -> bool:
        """An answer has come; whether more is owed."""

    def lost(self, error: HeadgateError) -> None:
        """The process has ended: nothing in flight will be answered."""


async def _nothing() -> None:
    """There is always room."""


async def _how_it_ended(process: asyncio.subprocess.Process) -> str:
    """Who must find out why needs the signal: 9 mostly is the system's, for want of memory."""
    try:
        async with asyncio.timeout(ENDING_S):
            code = await process.wait()
    except TimeoutError:
        return "its process closed the channel"
    how = f"status {code}" if code >= 0 else f"signal {-code}, {signal.strsignal(-code)}"
    return f"its process ended ({how})"


class _Link(asyncio.Protocol):
    """Hands on whole messages; `lost` is done when the channel is."""

    def __init__(self, receive: Callable[[wire.FromWorker], None]) -> None:
        self._receive = receive
        self._frames = wire.Frames()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._receive(wire.decode_from_worker(frame))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class EngineProcess:
    """A process that dies is replaced, after a pause that doubles with every early death. One that has work but says
    nothing for `hang_s` seconds is killed. A folder that cannot be served is not tried again.
    """

    def __init__(
        self, folder: Path, settings: EngineSettings, owner: Owner, *, clock: Clock, blas_threads: int = 1
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.phases: dict[str, float] = {}
        """Seconds each part of the latest start took."""
        self.restarts = 0
        self.trouble = ""
        """Why the latest process ended, or could not be started."""
        self.refused: ModelFolderError | None = None
        """Why the model cannot be served at all."""
        self.progress: wire.Loading | None = None
        """How far the start in progress has come."""
        self.start_s = 0.0
        """From the beginning of the latest start to its readiness."""
        self.starts = 0
        """How often it became ready."""
        self.admit: Callable[[], Awaitable[None]] = _nothing
        """Makes room for the process before it is woken; raises `HeadgateError` where there is none."""
        self.gives_way = False
        """It takes no new calls, not even to wake: another model will have its memory. Who sets it ends it."""
        self.told: Callable[[], None] = lambda: None
        """Called when `state` may have changed."""
        self._owner = owner
        self._blas_threads = blas_threads
        self._clock = clock
        self._tasks = Tasks()
        self._watch = Watch()
        self._began = clock.monotonic()
        self._ready: wire.Ready | None = None
        self._last: wire.Ready | None = None
        self._changed = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._used = clock.monotonic()
        self._asleep = self._closed = False
        self._waking = Waking()
        self._runs: list[asyncio.Task[None]] = []
        """The one that has the process, after those that are just giving it up."""

    def launch(self) -> None:
        """Starts the process and returns at once; `wait_ready` tells when it can be used."""
        self._asleep = False
        self._run(self._supervise())

    def rest(self) -> None:
        """Instead of `launch`: it begins asleep."""
        self._asleep = True

    async def sleep(self) -> None:
        """Ends the process; none is there until `awake`. What is in flight fails: ask `busy` before."""
        if self._closed or self._asleep or self.refused is not None:
            return
        self._asleep = True
        self._woken(Overloaded("The engine was put to sleep.", retry_after=1.0))
        ending = self._runs
        for run in ending:
            run.cancel()
        if ending:
            await asyncio.wait(ending)
        if self._asleep:
            self.trouble = ""

    async def awake(self) -> None:
        """Returns when the process is up, or at once where it is not asleep: `ready` tells.

        Raises `Overloaded` where it cannot be woken now, too many wait for that, or it gives way to another model;
        `Failed` where it never can be.
        """
        if self.gives_way:
            raise no_memory()
        self._used = self._clock.monotonic()
        if self._asleep and not self._closed:
            self._asleep = False
            self._waking.begin()
            self._run(self._wake(self._runs))
        if self._waking.under_way:
            await self._waking.wait()
            self._used = self._clock.monotonic()

    def forgive(self) -> None:
        """Where the model was refused: the next `awake` tries it anew, for its folder may have been mended."""
        if self.refused is not None and not self._closed:
            self.refused, self._asleep = None, True

    @property
    def state(self) -> State:
        if self._closed:
            return "closed"
        if self.refused is not None:
            return "refused"
        if self._asleep:
            return "asleep"
        if self.ready:
            return "ready"
        return "restarting" if self.trouble and not self._waking.under_way else "loading"

    @property
    def asleep(self) -> bool:
        return self._asleep

    @property
    def busy(self) -> bool:
        """It has work, or somebody waits for it to wake."""
        return self._watch.owed or self._waking.waiting > 0

    @property
    def idle_s(self) -> float:
        """Seconds since its last work."""
        return 0.0 if self.busy else self._clock.monotonic() - self._used

    @property
    def up_s(self) -> float:
        """Seconds since its latest start began."""
        return self._clock.monotonic() - self._began

    async def wait_ready(self) -> None:
        """Raises `ModelFolderError` if the model cannot be served, `Failed` if it is closed first."""
        while self._ready is None:
            if self.refused is not None:
                raise self.refused
            if self._closed:
                raise Failed("The engine was closed before it was ready.")
            self._changed.clear()
            await self._changed.wait()

    @property
    def ready(self) -> bool:
        """The process is up and has generated a token."""
        return self._ready is not None and self._transport is not None and not self._closed

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def known(self) -> wire.Ready:
        """What the latest process that was ready said; raises `Overloaded` before the first."""
        if self._last is None:
            raise Overloaded("The engine is starting.", retry_after=1.0)
        return self._last

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def unread(self) -> int:
        """Bytes that the process has not read yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def send(self, message: wire.ToWorker) -> None:
        """Nothing happens where no process is up: its owner has been told that it was lost."""
        if self._transport is not None:
            self._transport.write(wire.encode(message))
            self._watch.asked()

    async def aclose(self) -> None:
        """Kills the process, which keeps nothing, and reaps it; idempotent. What is in flight fails."""
        if self._closed:
            return
        self._closed = True
        self._woken(Overloaded("The engine is shutting down.", retry_after=1.0))
        await self._tasks.aclose()
        self._owner.lost(Overloaded("The engine is shutting down.", retry_after=1.0))

    def _received(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Loading():
                self.progress = message
            case wire.Ready():
                self._ready = self._last = message
                self.phases = message.phases
                self.start_s = self._clock.monotonic() - self._began
                self.starts += 1
                self.progress = None
                self._watch = Watch()  # loading may take its time
                self._used = self._clock.monotonic()
                self._woken(None)
            case wire.LoadFailed():
                self.refused = ModelFolderError(message.message)
                self._woken(unservable())
            case _:
                self._used = self._clock.monotonic()
                self._watch.heard(more=self._owner.received(message))

    def _woken(self, error: HeadgateError | None) -> None:
        """The start has come to an end, if one was waited for."""
        self._waking.end(error)
        self._changed.set()
        self.told()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks.spawn(work, name=f"engine {self.folder.name}")
        self._runs = [*(run for run in self._runs if not run.done()), task]

    async def _wake(self, ending: list[asyncio.Task[None]]) -> None:
        if ending:
            await asyncio.wait(ending)
        try:
            await self.admit()
        except HeadgateError as error:
            self._asleep = True
            self._woken(error)
            return
        self.trouble = ""
        self.told()
        await self._supervise()

    async def _supervise(self) -> None:
        pause = FIRST_RESTART_S
        while True:
            began = self._began = self._clock.monotonic()
            try:
                await self._one_process()
                self._woken(Overloaded(f"The engine could not be woken: {self.trouble}.", retry_after=1.0))
            except OSError as error:  # no memory, processes or files left now: perhaps later
                self.trouble = f"its process cannot be started: {error}"
                self._woken(Overloaded(f"The engine could not be woken: {self.trouble}.", retry_after=1.0))
            if self.refused is not None:
                return
            if self._clock.monotonic() - began > STABLE_S:
                pause = FIRST_RESTART_S
            await self._clock.sleep(pause)
            pause = min(pause * 2, LONGEST_RESTART_S)
            self.restarts += 1

    async def _one_process(self) -> None:
        """From start to end of one process; always reaped when this returns, cancelled or not."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = process = await asyncio.create_subprocess_exec(
                    # -P: the working directory is no place to import from
                    *(sys.executable, "-P", "-m", "headgate.engine.worker"),
                    *("--fd", str(theirs.fileno()), "--blas-threads", str(self._blas_threads)),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                )
        except BaseException:
            ours.close()
            raise
        try:
            await self._converse(ours)
            self._ready = self._transport = None
            self.trouble = self.trouble or await _how_it_ended(process)
        finally:
            self._ready = self._transport = self.progress = None
            self._watch = Watch()
            self.trouble = self.trouble or "its process ended"
            now = "was put to sleep" if self._asleep else f"is being restarted: {self.trouble}"
            lost = Overloaded(f"The engine {now}.", retry_after=1.0)
            self._owner.lost(lost)
            if process.returncode is None:
                process.kill()  # the channel is closed: it has ended, or has nothing left to do
            await process.wait()
            self._process = None

    async def _converse(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        transport, link = await loop.create_connection(lambda: _Link(self._received), sock=ours)
        try:
            self._transport, self.trouble = transport, ""
            self.send(wire.Load(str(self.folder), self.settings))
            watching = self._tasks.spawn(self._keep_watch(transport), name=f"watch {self.folder.name}")
            try:
                await link.lost
            finally:
                watching.cancel()
        finally:
            transport.abort()  # what a stuck process has not read is of no use to the next

    async def _keep_watch(self, transport: asyncio.WriteTransport) -> None:
        """Loading may take its time; from then on, every message sent is owed a report, and every step gives one."""
        while True:
            await self._clock.sleep(self.settings.hang_s / LOOKS)
            if self._ready is not None and self._watch.look():
                self.trouble = f"it had work and gave no sign for {self.settings.hang_s:g} s"
                transport.abort()
                return
