"""The gateway's side of an encoder: texts go to its process, numbers come back to who asked."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError
from headgate.engine import wire
from headgate.engine.encoder_wire import Encode, Encoded, EncoderFacts, EncoderStats, Text
from headgate.engine.front.model import ModelClient, queue_full
from headgate.engine.plan import NOBODY, Share
from headgate.engine.settings import EngineSettings


class EncoderClient(ModelClient):
    """A model that encodes."""

    def __init__(self, folder: Path, settings: EngineSettings | None = None, *, clock: Clock) -> None:
        super().__init__(folder, settings, clock=clock)
        self._waiting: dict[int, tuple[int, asyncio.Future[bytes]]] = {}
        """By request: how many texts, and who waits."""
        self._texts = 0
        self._next_request = 0
        self._stats = self._before = EncoderStats()

    def _blas_threads(self) -> int:
        return self.settings.threads or 1

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
        return len(self._waiting)

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
        self._expect_ready()
        facts = self.facts
        for text in texts:
            _refuse(text, facts)
        if dimensions is not None and dimensions > facts.size:
            raise BadCall(
                f"This model's vectors have {facts.size} dimensions; {dimensions} were asked for.", param="dimensions"
            )
        if self._texts and self._texts + len(texts) > facts.max_waiting:
            raise queue_full(self._texts, "texts")
        self._expect_reading()
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

    def received(self, message: wire.FromWorker) -> bool:
        if isinstance(message, Encoded):
            self._stats = message.stats
            for done in message.done:
                answer = self._end(done.request)
                if answer is not None and not answer.done():
                    answer.set_result(done.data)
        return bool(self._waiting)

    def lost(self, error: HeadgateError) -> None:
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
