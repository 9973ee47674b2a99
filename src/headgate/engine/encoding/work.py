"""What an encoder's process does: takes in requests, computes batches of their texts, answers those that are whole."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from headgate.core.clock import Clock
from headgate.engine import wire
from headgate.engine.channel import Channel
from headgate.engine.encoder_wire import Encode, Encoded, EncoderStats, Text, Vectors
from headgate.engine.encoding.cache import VectorCache, key_of
from headgate.engine.encoding.queue import TextQueue, Window
from headgate.engine.runners.encoder_runner import unit
from headgate.engine.settings import EncoderSettings

Matrix = npt.NDArray[np.float32]


class Encoder(Protocol):
    """`runners/encoder_runner.py`, or what stands for it."""

    @property
    def size(self) -> int:
        """Numbers per text."""

    def encode(self, texts: list[Text]) -> Matrix:
        """[texts, size], in the order given."""


class _Open:
    """A request in progress: its numbers so far, and how many texts are still to come."""

    __slots__ = ("message", "numbers", "open")

    def __init__(self, message: Encode, size: int) -> None:
        self.message = message
        self.numbers: Matrix = np.empty((len(message.texts), size), np.float32)
        self.open = len(message.texts)


class EncoderWorker:
    """One thread's. Requests were checked by the client: their ids are of the vocabulary, their lengths fit."""

    def __init__(self, runner: Encoder, settings: EncoderSettings, clock: Clock) -> None:
        self._runner = runner
        self._budget = settings.max_batch_tokens
        self._clock = clock
        self._queue = TextQueue()
        self._window = Window(settings.window_ms / 1000)
        self._cache = VectorCache(settings.cache_mib * 2**20)
        self._requests: dict[int, _Open] = {}
        self._done: list[Vectors] = []
        self._served = self._texts = self._tokens = self._hits = self._steps = 0
        self._forward_s = self._held_s = 0.0

    @property
    def busy(self) -> bool:
        return self._queue.waiting > 0

    def submit(self, message: Encode) -> None:
        """What is in the cache is not computed again; a request of such texts only is answered without a step."""
        request = self._requests[message.request] = _Open(message, self._runner.size)
        missing = list(range(len(message.texts)))
        if self._cache.enabled and not message.fresh:
            missing = [place for place in missing if not self._cached(request, place)]
        self._texts += len(message.texts)
        request.open = len(missing)
        if request.open:
            lengths = [len(text.tokens) for text in message.texts]
            self._queue.add(message.request, lengths, missing, message.share)
        else:
            self._answer(request)

    def cancel(self, message: wire.Cancel) -> None:
        self._queue.cancel(message.request)
        self._requests.pop(message.request, None)

    def hold(self) -> float:
        """Seconds to wait for more before the next step; 0: now."""
        return self._window.hold(self._clock.monotonic(), self._queue, self._budget)

    def held(self, seconds: float) -> None:
        self._held_s += seconds

    def step(self) -> None:
        """Computes one batch, where anything waits."""
        taken = self._queue.take(self._budget)
        if not taken:
            return
        texts = [self._requests[key].message.texts[place] for key, place in taken]
        start = self._clock.monotonic()
        numbers = self._runner.encode(texts)
        before = len(self._done)
        for (key, place), text, row in zip(taken, texts, numbers, strict=True):
            request = self._requests[key]
            request.numbers[place] = row
            request.open -= 1
            if self._cache.enabled:
                self._cache.put(key_of(text, request.message.share.salt), row.tobytes())
            if not request.open:
                self._answer(request)
        now = self._clock.monotonic()
        self._window.stepped(now, len(self._done) - before, self._queue.requests)
        self._steps += 1
        self._tokens += sum(len(text.tokens) for text in texts)
        self._forward_s += now - start

    def report(self) -> Encoded:
        """What was completed since the last one."""
        done, self._done = self._done, []
        stats = EncoderStats(
            self._queue.waiting,
            len(self._cache),
            self._served,
            self._texts,
            self._tokens,
            self._hits,
            self._steps,
            self._forward_s,
            self._held_s,
        )
        return Encoded(done, stats)

    def _cached(self, request: _Open, place: int) -> bool:
        found = self._cache.get(key_of(request.message.texts[place], request.message.share.salt))
        if found is None:
            return False
        request.numbers[place] = np.frombuffer(found, np.float32)
        self._hits += 1
        return True

    def _answer(self, request: _Open) -> None:
        message, numbers = request.message, request.numbers
        if message.cosines:
            numbers = unit(numbers)
            numbers = numbers[1:] @ numbers[0]
        elif message.dimensions is not None:
            numbers = unit(numbers[:, : message.dimensions])
        self._done.append(Vectors(message.request, numbers.astype("<f4").tobytes()))
        self._served += 1
        del self._requests[message.request]


def work(channel: Channel, worker: EncoderWorker, clock: Clock, messages: list[wire.ToWorker]) -> None:
    """Until the parent closes the channel, which raises `ParentGone`."""
    while True:
        for message in messages:
            match message:
                case Encode():
                    worker.submit(message)
                case wire.Cancel():
                    worker.cancel(message)
                case _:
                    raise TypeError(f"an encoder is not sent {type(message).__name__}")
        if (seconds := worker.hold()) > 0:
            since = clock.monotonic()
            messages = channel.receive(wait=True, at_most_s=seconds)
            worker.held(clock.monotonic() - since)
            continue
        worker.step()
        # Also where nothing was completed: every message, and every step, is a sign of life (`front/watch.py`).
        channel.send(worker.report())
        messages = channel.receive(wait=not worker.busy)
