"""One engine process in our care: started, watched, replaced when it dies or hangs, ended.

What it says about itself (ready, refused) is taken in here; everything else goes to the one who asked.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from headgate.core.clock import Clock
from headgate.core.errors import Failed, HeadgateError, Overloaded
from headgate.core.tasks import Tasks
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.settings import EngineSettings
from headgate.engine.watch import LOOKS, Watch

FIRST_RESTART_S = 0.1
LONGEST_RESTART_S = 10.0
STABLE_S = 30.0
"""A process that lived this long was healthy: the next restart waits shortly again."""


class Owner(Protocol):
    """Who speaks with the process."""

    def received(self, message: wire.FromWorker) -> bool:
        """An answer has come; whether more is owed."""

    def lost(self, error: HeadgateError) -> None:
        """The process has ended: nothing in flight will be answered."""


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

    def __init__(self, folder: Path, settings: EngineSettings, owner: Owner, *, clock: Clock) -> None:
        self.folder = folder
        self.settings = settings
        self.phases: dict[str, float] = {}
        """Seconds each part of the latest start took."""
        self.restarts = 0
        self.trouble = ""
        """Why the latest process ended, or could not be started."""
        self.refused: ModelFolderError | None = None
        """Why the model cannot be served at all."""
        self._owner = owner
        self._clock = clock
        self._tasks = Tasks()
        self._watch = Watch()
        self._ready: wire.Ready | None = None
        self._last: wire.Ready | None = None
        self._changed = asyncio.Event()
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._closed = False

    def launch(self) -> None:
        """Starts the process and returns at once; `wait_ready` tells when it can be used."""
        self._tasks.spawn(self._supervise(), name=f"engine {self.folder.name}")

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
        self._changed.set()
        await self._tasks.aclose()
        self._owner.lost(Overloaded("The engine is shutting down.", retry_after=1.0))

    def _received(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Ready():
                self._ready = self._last = message
                self.phases = message.phases
                self._watch = Watch()  # loading may take its time
                self._changed.set()
            case wire.LoadFailed():
                self.refused = ModelFolderError(message.message)
                self._changed.set()
            case _:
                self._watch.heard(more=self._owner.received(message))

    async def _supervise(self) -> None:
        pause = FIRST_RESTART_S
        while True:
            began = self._clock.monotonic()
            try:
                await self._one_process()
            except OSError as error:  # no memory, processes or files left now: perhaps later
                self.trouble = f"its process cannot be started: {error}"
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
                    *("--fd", str(theirs.fileno()), "--threads", str(self.settings.threads)),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                )
        except BaseException:
            ours.close()
            raise
        try:
            await self._converse(ours)
        finally:
            self._ready = self._transport = None
            self.trouble = self.trouble or "its process ended"
            self._owner.lost(Overloaded(f"The engine is being restarted: {self.trouble}.", retry_after=1.0))
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
