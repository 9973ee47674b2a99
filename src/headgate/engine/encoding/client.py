"""The gateway's side of an encoder: texts go to its process, numbers come back to who asked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, Overloaded
from headgate.engine import wire
from headgate.engine.encoder_wire import Encode, Encoded, EncoderFacts, EncoderStats, Text
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.process import EngineProcess, unservable
from headgate.engine.plan import NOBODY, Share
from headgate.engine.settings import EngineSettings

MAX_UNREAD_BYTES = 64 * 2**20
"""Of requests that the process has not read yet; beyond, new ones are refused."""


class EncoderClient:
    """One encoder process with one model, in the shape of `EngineClient`.

    A process that dies fails what was in flight with `Overloaded` and is replaced (`front/process.py`).
    """

    def __init__(self, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> None:
        self.folder = folder
        self.settings = settings or EngineSettings()
        self.process = EngineProcess(folder, self.settings, self, clock=clock, blas_threads=self.settings.threads or 1)
        self._changed = asyncio.Event()
        self._waiting: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        """By request: how many texts, and who waits."""
        self._texts = 0
        self._next_request = 0
        self._draining = False
        self._stats = self._before = EncoderStats()

    @classmethod
    async def start(cls, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> "EncoderClient":
        """A client whose process has loaded `folder` and encoded a text. Raises `ModelFolderError`."""
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
        """To be awaited before anything is asked of an encoder that may sleep: returns when it is up again.

        Returns at once where it does not sleep, up or not. Raises `Overloaded` where it cannot be woken now.
        """
        await self.process.awake()

    @property
    def asleep(self) -> bool:
        """It has no process now; the next call wakes it."""
        return self.process.asleep

    @property
    def known(self) -> bool:
        """It has been ready before, so that `facts` are known, asleep or not."""
        return self.process.starts > 0

    @property
    def ready(self) -> bool:
        """The process is up and has encoded a text."""
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
    def facts(self) -> EncoderFacts:
        """Of the latest process that was ready; raises `Overloaded` before the first."""
        facts = self.process.known.encoder
        if facts is None:
            raise TypeError(f"{self.folder} is not an encoder")
        return facts

    @property
    def stats(self) -> EncoderStats:
        """As of the last step; totals count on over restarts."""
        return self._stats.since(self._before)

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet."""
        return len(self._waiting)

    @property
    def pid(self) -> int | None:
        return self.process.pid

    async def encode(
        self,
        texts: Sequence[Text],
        *,
        share: Share = NOBODY,
        dimensions: int | None = None,
        cosines: bool = False,
        fresh: bool = False,
    ) -> bytes:
        """The numbers of all texts, as `encoder_wire.Encode` has them. Cancelling ends the work within one step.

        Raises `BadCall` for what can never fit and `Overloaded` where there is no room or no process now.
        """
        if self._draining or self.process.closed:
            raise Overloaded("The engine is shutting down.", retry_after=1.0)
        if self.process.refused is not None:
            raise unservable()
        if not self.process.ready:
            raise Overloaded(f"The engine is {self.process.state}.", retry_after=1.0)
        facts = self.facts
        for text in texts:
            _refuse(text, facts)
        if dimensions is not None and dimensions > facts.size:
            raise BadCall(
                f"This model's vectors have {facts.size} dimensions; {dimensions} were asked for.", param="dimensions"
            )
        if self._texts and self._texts + len(texts) > facts.max_waiting:
            # by this code it is this call's alone: smaller ones may come meanwhile, the replica takes no pause
            raise Overloaded(
                f"The engine's queue is full: {self._texts} texts are in flight.",
                code="engine_queue_full",
                retry_after=1.0,
            )
        if self.process.unread > MAX_UNREAD_BYTES:
            raise Overloaded("The engine does not keep up with new requests.", retry_after=1.0)
        self._next_request += 1
        request = self._next_request
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[request] = (len(texts), answer)
        self._texts += len(texts)
        self.process.send(Encode(request, tuple(texts), share, dimensions, cosines, fresh))
        try:
            return await answer
        finally:
            if self._end(request) is not None:
                self.process.send(wire.Cancel(request))

    async def drain(self) -> None:
        """Refuses new requests and returns when those in flight have ended."""
        self._draining = True
        while self._waiting:
            self._changed.clear()
            await self._changed.wait()

    async def aclose(self) -> None:
        """Kills the process, which keeps nothing, and reaps it; idempotent. What is in flight fails."""
        await self.process.aclose()

    def received(self, message: wire.FromWorker) -> bool:
        """Implements `process.Owner`."""
        if isinstance(message, Encoded):
            self._stats = message.stats
            for done in message.done:
                answer = self._end(done.request)
                if answer is not None and not answer.done():
                    answer.set_result(done.data)
        return bool(self._waiting)

    def lost(self, error: HeadgateError) -> None:
        """Implements `process.Owner`."""
        self._before, self._stats = self.stats, EncoderStats()
        for request in list(self._waiting):
            answer = self._end(request)
            if answer is not None and not answer.done():
                answer.set_exception(error)

    def _end(self, request: int) -> asyncio.Future[bytes] | None:
        texts, answer = self._waiting.pop(request, (0, None))
        self._texts -= texts
        if answer is not None:
            self._changed.set()
        return answer


def _refuse(text: Text, facts: EncoderFacts) -> None:
    if not text.tokens:
        raise BadCall("There is nothing to embed: an input has no tokens.", param="input")
    if len(text.tokens) > facts.max_length:
        raise BadCall(
            f"This model's maximum context length is {facts.max_length} tokens, but an input has {len(text.tokens)}. "
            "Shorten it, or send truncate_prompt_tokens: -1 to have it cut.",
            code="context_length_exceeded",
            param="input",
        )
    if min(text.tokens) < 0 or max(text.tokens) >= facts.vocabulary:
        raise BadCall(f"Token ids must be between 0 and {facts.vocabulary - 1}.", param="input")
