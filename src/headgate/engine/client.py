"""The gateway's side of the engine: starts its process, speaks with it, and starts it again if it dies."""

import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, Failed, HeadgateError, Overloaded
from headgate.core.tasks import Tasks
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.generation import Generation
from headgate.engine.limits import Limits
from headgate.engine.metrics import EngineStats
from headgate.engine.plan import SamplingParams
from headgate.engine.settings import EngineSettings
from headgate.engine.watch import LOOKS, Watch

FIRST_RESTART_S = 0.1
LONGEST_RESTART_S = 10.0
MAX_UNREAD_BYTES = 64 * 2**20
"""Of requests that the process has not read yet; beyond, new ones are refused."""
STABLE_S = 30.0
"""A process that lived this long was healthy: the next restart waits shortly again."""


class _Link(asyncio.Protocol):
    """Hands whole messages to the client; `lost` is done when the channel is."""

    def __init__(self, client: "EngineClient") -> None:
        self._client = client
        self._frames = wire.Frames()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            self._client._received(wire.decode_from_worker(frame))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)


class EngineClient:
    """One engine process with one model. `submit` is synchronous: what can be refused is refused at once.

    A process that dies fails what was in flight with `Overloaded` and is replaced, after a pause that doubles with
    every early death. One that has work but says nothing for `hang_s` seconds is killed. A folder that cannot be served
    is not tried again.
    """

    def __init__(self, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> None:
        self.folder = folder
        self.settings = settings or EngineSettings()
        self.phases: dict[str, float] = {}
        """Seconds each part of the latest start took."""
        self.restarts = 0
        self.trouble = ""
        """Why the latest process ended, or could not be started."""
        self._clock = clock
        self._tasks = Tasks()
        self._watch = Watch()
        self._ready: wire.Ready | None = None
        self._last: wire.Ready | None = None
        self._changed = asyncio.Event()
        self._refused: ModelFolderError | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._generations: dict[int, Generation] = {}
        self._next_request = 0
        self._draining = self._closed = False
        self._stats = self._before = EngineStats()

    @classmethod
    async def start(cls, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> "EngineClient":
        """A client whose engine has loaded `folder` and generated a token. Raises `ModelFolderError`."""
        client = cls(folder, settings, clock=clock)
        client.launch()
        try:
            await client.wait_ready()
        except BaseException:
            await client.aclose()
            raise
        return client

    def launch(self) -> None:
        """Starts the process and returns at once; `wait_ready` tells when it can be used."""
        self._tasks.spawn(self._supervise(), name=f"engine {self.folder.name}")

    async def wait_ready(self) -> None:
        """Raises `ModelFolderError` if the model cannot be served, `Failed` if the client is closed first."""
        while self._ready is None:
            if self._refused is not None:
                raise self._refused
            if self._closed:
                raise Failed("The engine was closed before it was ready.")
            self._changed.clear()
            await self._changed.wait()

    @property
    def ready(self) -> bool:
        """The process is up and has generated a token."""
        return self._ready is not None and not self._closed

    @property
    def refused(self) -> ModelFolderError | None:
        """Why the model cannot be served at all."""
        return self._refused

    @property
    def limits(self) -> Limits:
        """Of the latest process that was ready; raises `Overloaded` before the first."""
        return self._known().limits

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self._known().eos_ids

    @property
    def grammar(self) -> bool:
        """Whether answers can be held to grammars."""
        return self._known().grammar

    @property
    def stats(self) -> EngineStats:
        """As of the last step; totals count on over restarts."""
        return self._stats.since(self._before)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def submit(
        self,
        prompts: Sequence[tuple[int, ...]],
        params: SamplingParams,
        *,
        max_tokens: int,
        choices: int = 1,
        grammar: str | None = None,
    ) -> Generation:
        """Generates `choices` continuations of each prompt, numbered on from prompt to prompt.

        With a grammar (`grammar.py`), await `Generation.accepted` before anything else of it.

        Raises `BadCall` for what can never fit and `Overloaded` where there is no room or no engine now.
        """
        if self._draining or self._closed:
            raise Overloaded("The engine is shutting down.", retry_after=1.0)
        if self._ready is None or self._transport is None:
            raise Overloaded("The engine is starting.", retry_after=1.0)
        limits = self._ready.limits
        for prompt in prompts:
            limits.refuse(len(prompt), max_tokens)
            limits.refuse_tokens(prompt)
        wanted = len(prompts) * choices
        in_flight = sum(generation.open for generation in self._generations.values())
        if in_flight + wanted > limits.max_sequences + limits.max_waiting:
            raise Overloaded(f"The engine's queue is full: {in_flight} sequences are in flight.", retry_after=1.0)
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            raise Overloaded("The engine does not keep up with new requests.", retry_after=1.0)
        self._next_request += 1
        generation = Generation(self._next_request, wanted, self._cancel)
        self._send(wire.Submit(generation.request, tuple(prompts), params, max_tokens, choices, grammar))
        self._generations[generation.request] = generation
        return generation

    async def drain(self) -> None:
        """Refuses new requests and returns when those in flight have ended."""
        self._draining = True
        while self._generations:
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Kills the process, which keeps nothing, and reaps it; idempotent. What is in flight fails."""
        if self._closed:
            return
        self._closed = True
        self._notify()
        await self._tasks.aclose()
        self._fail_all(Overloaded("The engine is shutting down.", retry_after=1.0))

    def _known(self) -> wire.Ready:
        if self._last is None:
            raise Overloaded("The engine is starting.", retry_after=1.0)
        return self._last

    def _send(self, message: wire.ToWorker) -> None:
        if self._transport is not None:
            self._transport.write(wire.encode(message))
            self._watch.asked()

    def _cancel(self, request: int, choice: int | None) -> None:
        if choice is None:
            self._generations.pop(request, None)
            self._notify()
        self._send(wire.Cancel(request, choice))

    def _received(self, message: wire.FromWorker) -> None:
        match message:
            case wire.Report():
                self._stats = message.stats
                for delta in message.deltas:
                    self._deliver(delta)
                self._watch.heard(more=bool(self._generations))
            case wire.Ready():
                self._ready = self._last = message
                self.phases = message.phases
                self._watch = Watch()  # loading may take its time
                self._notify()
            case wire.LoadFailed():
                self._refused = ModelFolderError(message.message)
                self._notify()
            case wire.Refusal():
                generation = self._generations.pop(message.request, None)
                if generation is not None:
                    refused = BadCall(message.message) if message.bad_call else Overloaded(message.message)
                    generation.fail(refused)
                    self._notify()
            case wire.Accepted():
                if message.request in self._generations:
                    self._generations[message.request].accept()

    def _deliver(self, delta: wire.Delta) -> None:
        generation = self._generations.get(delta.request)
        if generation is None:
            return  # cancelled while this was on its way
        if delta.finish == "failed":
            generation.fail(Failed("Holding the answer to its schema became too complex.", code="schema_too_complex"))
            self._send(wire.Cancel(delta.request))
        else:
            generation.receive(delta)
        if not generation.open:
            del self._generations[delta.request]
            self._notify()

    def _fail_all(self, error: HeadgateError) -> None:
        generations, self._generations = self._generations, {}
        for generation in generations.values():
            generation.fail(error)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()

    async def _supervise(self) -> None:
        pause = FIRST_RESTART_S
        while True:
            began = self._clock.monotonic()
            try:
                await self._one_process()
            except OSError as error:  # no memory, processes or files left now: perhaps later
                self.trouble = f"its process cannot be started: {error}"
            if self._refused is not None:
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
            self._before, self._stats = self.stats, EngineStats()
            self._fail_all(Overloaded(f"The engine is being restarted: {self.trouble}.", retry_after=1.0))
            if process.returncode is None:
                process.kill()  # the channel is closed: it has ended, or has nothing left to do
            await process.wait()
            self._process = None

    async def _converse(self, ours: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        transport, link = await loop.create_connection(lambda: _Link(self), sock=ours)
        try:
            self._transport, self.trouble = transport, ""
            self._send(wire.Load(str(self.folder), self.settings))
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
