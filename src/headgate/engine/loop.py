"""The worker's loop: take in messages, plan a step, compute it, report it.

One thread. Messages are read before every step, so a cancel frees its blocks within one step; all outputs of a step
leave in one message. An exception here ends the process: the client fails what was in flight and starts another.
"""

import socket
from pathlib import Path

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.grammar import Grammars
from headgate.engine.limits import Limits
from headgate.engine.metrics import EngineStats
from headgate.engine.models.spec import ModelSpec, read_spec
from headgate.engine.models.weights import read_weights
from headgate.engine.plan import Constraint, Runner, SamplingParams
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.scheduler import Output, Scheduler
from headgate.engine.sequence import Sequence
from headgate.engine.settings import EngineSettings

RECEIVE_BYTES = 2**18
FLOAT_BYTES = 4


class ParentGone(Exception):
    """The channel is closed: nobody is left to work for."""


class Channel:
    """The worker's end of the socket."""

    def __init__(self, socket: socket.socket) -> None:
        self._socket = socket
        self._frames = wire.Frames()

    def receive(self, *, wait: bool) -> list[wire.ToWorker]:
        """What has come; with `wait`, at least one message. Raises `ParentGone` at the end of the stream."""
        messages: list[wire.ToWorker] = []
        while True:
            self._socket.setblocking(wait and not messages)
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                return messages
            except ConnectionError as error:
                raise ParentGone from error
            if not data:
                raise ParentGone
            messages.extend(wire.decode_to_worker(frame) for frame in self._frames.feed(data))

    def send(self, message: wire.FromWorker) -> None:
        self._socket.setblocking(True)
        try:
            self._socket.sendall(wire.encode(message))
        except ConnectionError as error:
            raise ParentGone from error


class Worker:
    """Maps requests and their choices to sequences, and runs them."""

    def __init__(self, scheduler: Scheduler, runner: Runner, clock: Clock, grammars: Grammars | None = None) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._clock = clock
        self._grammars = grammars
        self._keys: dict[tuple[int, int], int] = {}
        self._owners: dict[int, tuple[int, int]] = {}
        self._next_key = 0
        self._plan_s = self._forward_s = self._sample_s = 0.0

    @property
    def busy(self) -> bool:
        return self._scheduler.busy

    def submit(self, message: wire.Submit) -> None:
        """Raises `HeadgateError` where the scheduler refuses; then none of the choices runs."""
        try:
            for choice in range(len(message.prompts) * message.choices):
                prompt = message.prompts[choice // message.choices]
                self._scheduler.limits.refuse_tokens(prompt)
                sequence = Sequence(
                    self._next_key,
                    prompt,
                    message.params,
                    max_tokens=message.max_tokens,
                    choice=choice,
                    constraint=self._constraint(message.grammar),
                )
                self._scheduler.submit(sequence)
                self._next_key += 1
                self._keys[message.request, choice] = sequence.key
                self._owners[sequence.key] = (message.request, choice)
        except HeadgateError:
            self.cancel(wire.Cancel(message.request))
            raise

    def _constraint(self, grammar: str | None) -> Constraint | None:
        if grammar is None:
            return None
        if self._grammars is None:
            raise BadCall("This model's tokenizer cannot be used with grammars.")
        return self._grammars.start(grammar)

    def cancel(self, message: wire.Cancel) -> None:
        """What has ended meanwhile is none of its business."""
        if message.choice is not None:
            owners = [(message.request, message.choice)]
        else:
            owners = [owner for owner in self._keys if owner[0] == message.request]
        for owner in owners:
            key = self._keys.pop(owner, None)
            if key is not None:
                del self._owners[key]
                self._scheduler.cancel(key)

    def step(self) -> list[wire.Delta]:
        start = self._clock.monotonic()
        plan = self._scheduler.plan()
        if plan is None:
            return []
        planned = self._clock.monotonic()
        logits = self._runner.forward(plan)
        computed = self._clock.monotonic()
        result = self._runner.sample(logits, plan.samples, self._scheduler.masks(plan))
        self._plan_s += planned - start
        self._forward_s += computed - planned
        self._sample_s += self._clock.monotonic() - computed
        return [self._delta(output) for output in self._scheduler.apply(plan, result)]

    def stats(self) -> EngineStats:
        scheduler, counters = self._scheduler, self._scheduler.counters
        return EngineStats(
            scheduler.running,
            scheduler.waiting,
            scheduler.pool.used,
            scheduler.pool.total,
            counters.prompt_tokens,
            counters.generated_tokens,
            counters.computed_tokens,
            counters.preemptions,
            counters.steps,
            self._plan_s,
            self._forward_s,
            self._sample_s,
        )

    def _delta(self, output: Output) -> wire.Delta:
        owner = self._owners[output.key]
        if output.finish is not None:
            del self._owners[output.key], self._keys[owner]
        scores = None if output.score is None else [output.score]
        return wire.Delta(*owner, [output.token], scores, output.finish)


def serve(socket: socket.socket, clock: Clock, started: float) -> None:
    """Loads what the first message names, then works until the parent closes the channel."""
    channel, imported = Channel(socket), clock.monotonic() - started
    try:
        first, *rest = channel.receive(wait=True)
        if not isinstance(first, wire.Load):
            raise TypeError(f"the first message must be Load, not {type(first).__name__}")
        try:
            worker, ready = load(Path(first.folder), first.settings, clock, {"import": imported})
        except ModelFolderError as error:
            channel.send(wire.LoadFailed(str(error)))
            return
        channel.send(ready)
        _work(channel, worker, rest)
    except ParentGone:
        return


def _work(channel: Channel, worker: Worker, messages: list[wire.ToWorker]) -> None:
    while True:
        for message in messages:
            match message:
                case wire.Submit():
                    _submit(channel, worker, message)
                case wire.Cancel():
                    worker.cancel(message)
                case wire.Load():
                    raise TypeError("Load is the first message only")
        # Also where nothing was drawn: every step, and every message, is a sign of life (`watch.py`).
        channel.send(wire.Report(worker.step(), worker.stats()))
        messages = channel.receive(wait=not worker.busy)


def _submit(channel: Channel, worker: Worker, message: wire.Submit) -> None:
    try:
        worker.submit(message)
    except HeadgateError as error:
        channel.send(wire.Refusal(message.request, error.message, isinstance(error, BadCall)))
    else:
        if message.grammar is not None:
            channel.send(wire.Accepted(message.request))


def load(folder: Path, settings: EngineSettings, clock: Clock, phases: dict[str, float]) -> tuple[Worker, wire.Ready]:
    """Raises `ModelFolderError`. The worker given back has really generated a token; `phases` are added to."""

    def timed(name: str, since: float) -> float:
        now = clock.monotonic()
        phases[name] = now - since
        return now

    at = clock.monotonic()
    spec = read_spec(folder)
    at = timed("config", at)
    weights = read_weights(folder, spec)
    at = timed("weights", at)
    grammars = Grammars.read(folder, vocabulary=spec.vocabulary, eos_ids=spec.eos_ids)
    at = timed("grammar", at)
    limits = fit(spec, settings)
    runner = NumpyRunner(spec, weights, blocks=limits.blocks, block_size=limits.block_size)
    at = timed("kv_cache", at)
    warm_up(limits, runner, clock)
    timed("first_token", at)
    worker = Worker(Scheduler(limits), runner, clock, grammars)
    return worker, wire.Ready(limits, spec.eos_ids, phases, grammars is not None)


def fit(spec: ModelSpec, settings: EngineSettings) -> Limits:
    """How many blocks the memory gives; never more than all sequences at full length would use."""
    block_bytes = spec.kv_bytes_per_token(FLOAT_BYTES) * settings.block_size
    useful = settings.max_sequences * -(-spec.context_length // settings.block_size)
    blocks = min(settings.kv_cache_mib * 2**20 // block_bytes, useful)
    if blocks < 1:
        raise ModelFolderError(
            f"kv_cache_mib: {settings.kv_cache_mib} MiB hold no block of {settings.block_size} tokens, "
            f"which takes {block_bytes / 2**20:.1f} MiB with this model"
        )
    return Limits(
        context_length=spec.context_length,
        vocabulary=spec.vocabulary,
        blocks=blocks,
        block_size=settings.block_size,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        max_waiting=settings.max_waiting,
    )


def warm_up(limits: Limits, runner: Runner, clock: Clock) -> None:
    """Generates tokens through a scheduler of its own, so that readiness means that inference works."""
    tokens = min(2, limits.longest - 1)
    trial = Worker(Scheduler(limits), runner, clock)
    trial.submit(wire.Submit(0, ((0,),), SamplingParams(temperature=0.0, ignore_eos=True), tokens))
    drawn = 0
    while trial.busy:
        drawn += len(trial.step())
    if drawn != tokens:
        raise RuntimeError(f"the warm-up drew {drawn} tokens instead of {tokens}")
