"""The gateway's side of the engine: requests go to its process, tokens come back to who asked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, Overloaded
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.generation import Generation
from headgate.engine.front.process import EngineProcess, unservable
from headgate.engine.limits import Limits
from headgate.engine.metrics import EngineStats, Timings
from headgate.engine.plan import NOBODY, SamplingParams, Share
from headgate.engine.settings import EngineSettings

MAX_UNREAD_BYTES = 64 * 2**20
"""Of requests that the process has not read yet; beyond, new ones are refused."""
_TOO_COMPLEX = "Holding the answer to its form became too complex: ask for a simpler schema, pattern or grammar."


class EngineClient:
    """One engine process with one model. `submit` is synchronous: what can be refused is refused at once.

    A process that dies fails what was in flight with `Overloaded` and is replaced (`process.py`).
    """

    def __init__(self, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> None:
        self.folder = folder
        self.settings = settings or EngineSettings()
        self.process = EngineProcess(folder, self.settings, self, clock=clock)
        self._changed = asyncio.Event()
        self._generations: dict[int, Generation] = {}
        self._next_request = 0
        self._draining = False
        self._stats = self._before = EngineStats()
        self._timings = self._timings_before = Timings.empty()

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
        self.process.launch()

    async def wait_ready(self) -> None:
        """Raises `ModelFolderError` if the model cannot be served, `Failed` if the client is closed first."""
        await self.process.wait_ready()

    async def awake(self) -> None:
        """To be awaited before anything is asked of an engine that may sleep: returns when it is up again.

        Returns at once where it does not sleep, up or not. Raises `Overloaded` where it cannot be woken now.
        """
        await self.process.awake()

    @property
    def asleep(self) -> bool:
        """It has no process now; the next call wakes it."""
        return self.process.asleep

    @property
    def ready(self) -> bool:
        """The process is up and has generated a token."""
        return self.process.ready

    @property
    def refused(self) -> ModelFolderError | None:
        """Why the model cannot be served at all."""
        return self.process.refused

    @property
    def phases(self) -> dict[str, float]:
        """Seconds each part of the latest start took."""
        return self.process.phases

    @property
    def restarts(self) -> int:
        return self.process.restarts

    @property
    def trouble(self) -> str:
        """Why the latest process ended, or could not be started."""
        return self.process.trouble

    @property
    def known(self) -> bool:
        """It has been ready before, so that `limits` and what is said beside them is known, asleep or not."""
        return self.process.starts > 0

    @property
    def limits(self) -> Limits:
        """Of the latest process that was ready; raises `Overloaded` before the first."""
        return self.process.known.limits

    @property
    def eos_ids(self) -> tuple[int, ...]:
        return self.process.known.eos_ids

    @property
    def grammar(self) -> bool:
        """Whether answers can be held to grammars."""
        return self.process.known.grammar

    @property
    def stats(self) -> EngineStats:
        """As of the last step; totals count on over restarts."""
        return self._stats.since(self._before)

    @property
    def timings(self) -> Timings:
        """As of half a second ago at most; they count on over restarts."""
        return self._timings_before.plus(self._timings)

    @property
    def in_flight(self) -> int:
        """Requests with choices still to come."""
        return len(self._generations)

    @property
    def pid(self) -> int | None:
        return self.process.pid

    def submit(
        self,
        prompts: Sequence[tuple[int, ...]],
        params: SamplingParams,
        *,
        max_tokens: int,
        choices: int = 1,
        grammar: str | None = None,
        share: Share = NOBODY,
    ) -> Generation:
        """Generates `choices` continuations of each prompt, numbered on from prompt to prompt.

        With a grammar (`grammars/grammar.py`), await `Generation.accepted` before anything else of it.

        Raises `BadCall` for what can never fit and `Overloaded` where there is no room or no engine now.
        """
        if self._draining or self.process.closed:
            raise Overloaded("The engine is shutting down.", retry_after=1.0)
        if self.process.refused is not None:
            raise unservable()
        if not self.process.ready:
            raise Overloaded(f"The engine is {self.process.state}.", retry_after=1.0)
        limits = self.limits
        for prompt in prompts:
            limits.refuse(len(prompt), max_tokens)
            limits.refuse_tokens(prompt)
        wanted = len(prompts) * choices
        in_flight = sum(generation.open for generation in self._generations.values())
        if in_flight + wanted > limits.max_sequences + limits.max_waiting:
            # by this code it is this call's alone: smaller ones may come meanwhile, the replica takes no pause
            raise Overloaded(
                f"The engine's queue is full: {in_flight} sequences are in flight.",
                code="engine_queue_full",
                retry_after=1.0,
            )
        if self.process.unread > MAX_UNREAD_BYTES:
            raise Overloaded("The engine does not keep up with new requests.", retry_after=1.0)
        self._next_request += 1
        generation = Generation(self._next_request, wanted, self._cancel)
        self.process.send(wire.Submit(generation.request, tuple(prompts), params, max_tokens, choices, grammar, share))
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
        await self.process.aclose()

    def received(self, message: wire.FromWorker) -> bool:
        """Implements `process.Owner`."""
        match message:
            case wire.Report():
                self._stats = message.stats
                if message.timings is not None:
                    self._timings = message.timings
                for delta in message.deltas:
                    self._deliver(delta)
            case wire.Refusal():
                generation = self._generations.pop(message.request, None)
                if generation is not None:
                    refused = BadCall(message.message) if message.bad_call else Overloaded(message.message)
                    generation.fail(refused)
                    self._changed.set()
            case wire.Accepted():
                if message.request in self._generations:
                    self._generations[message.request].accept()
            case _:
                pass  # what the process says about itself is its keeper's
        return bool(self._generations)

    def lost(self, error: HeadgateError) -> None:
        """Implements `process.Owner`."""
        self._before, self._stats = self.stats, EngineStats()
        self._timings_before, self._timings = self.timings, Timings.empty()
        generations, self._generations = self._generations, {}
        for generation in generations.values():
            generation.fail(error)
        self._changed.set()

    def _cancel(self, request: int, choice: int | None) -> None:
        if choice is None:
            self._generations.pop(request, None)
            self._changed.set()
        self.process.send(wire.Cancel(request, choice))

    def _deliver(self, delta: wire.Delta) -> None:
        generation = self._generations.get(delta.request)
        if generation is None:
            return  # cancelled while this was on its way
        if delta.finish == "failed":
            generation.fail(BadCall(_TOO_COMPLEX, code="schema_too_complex"))
            self.process.send(wire.Cancel(delta.request))
        else:
            generation.receive(delta)
        if not generation.open:
            del self._generations[delta.request]
            self._changed.set()
