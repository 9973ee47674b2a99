"""The gateway's side of the engine: requests go to its process, tokens come back to who asked."""

from collections.abc import Sequence
from pathlib import Path

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, Overloaded
from headgate.engine import wire
from headgate.engine.front.generation import Generation
from headgate.engine.front.model import ModelClient, queue_full
from headgate.engine.limits import Limits
from headgate.engine.metrics import EngineStats, Timings
from headgate.engine.plan import NOBODY, SamplingParams, Share
from headgate.engine.settings import EngineSettings

_TOO_COMPLEX = "Holding the answer to its form became too complex: ask for a simpler schema, pattern or grammar."


class EngineClient(ModelClient):
    """A model that writes. `submit` is synchronous."""

    def __init__(self, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> None:
        super().__init__(folder, settings, clock=clock)
        self._generations: dict[int, Generation] = {}
        self._next_request = 0
        self._stats = self._before = EngineStats()
        self._timings = self._timings_before = Timings.empty()

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
        self._expect_ready()
        limits = self.limits
        for prompt in prompts:
            limits.refuse(len(prompt), max_tokens)
            limits.refuse_tokens(prompt)
        wanted = len(prompts) * choices
        in_flight = sum(generation.open for generation in self._generations.values())
        if in_flight + wanted > limits.max_sequences + limits.max_waiting:
            raise queue_full(in_flight, "sequences")
        self._expect_reading()
        self._next_request += 1
        generation = Generation(self._next_request, wanted, self._cancel)
        self.process.send(wire.Submit(generation.request, tuple(prompts), params, max_tokens, choices, grammar, share))
        self._generations[generation.request] = generation
        return generation

    def received(self, message: wire.FromWorker) -> bool:
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
