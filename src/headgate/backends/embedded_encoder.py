"""An encoder of our own, in a process beside the gateway: `/v1/embeddings` and `/v1/rerank` without a server.

Text is turned into token ids here and numbers into answers; the engine knows ids only.
"""

import asyncio
from array import array
from base64 import b64encode
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from headgate.backends.encoder_drift import CANONICAL, Drift
from headgate.backends.encoder_texts import EncoderTexts
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, NotFound, UpstreamTimeout
from headgate.core.ids import Ids
from headgate.core.policy import PRIORITIES
from headgate.core.ports import Answer, Health, ModelInfo, Progress
from headgate.core.request import EmbeddingRequest, PassthroughRequest, RerankRequest
from headgate.core.target import Target
from headgate.core.usage import Usage
from headgate.engine.encoder_wire import Text
from headgate.engine.encoding.client import EncoderClient
from headgate.engine.plan import Share

INLINE_BYTES = 16 * 1024
"""Requests up to this size are tokenised on the event loop: that is faster than a thread."""
INPUTS_MAX = 2_048
"""Texts of one request, as OpenAI has it; documents too."""
AT_ONCE = 64
"""Vectors that are written as JSON before others may run."""
FLOAT_BYTES = 4
R = TypeVar("R", EmbeddingRequest, RerankRequest)


class EncoderBackend:
    """One model folder behind one encoder, in the shape of `EmbeddedBackend`.

    Raises `ValueError` where the folder's text side cannot be used.
    """

    kind = "embedded"

    def __init__(
        self,
        name: str,
        engine: EncoderClient,
        *,
        clock: Clock,
        ids: Ids,
        model: str | None = None,
        drift: Drift | None = None,
        lazy: bool = False,
    ) -> None:
        """`engine` is started by whoever builds this; it is closed with the backend. `model` is the folder's name.

        `lazy`: the tokenizer is read when it is needed first.
        """
        self.name = name
        self.engine = engine
        self.model = model or engine.folder.name
        self.drift = drift or Drift()
        self._clock = clock
        self._ids = ids
        self._texts = EncoderTexts(engine.folder)
        if not lazy:
            self._texts.load()
        self._steps_seen = 0

    async def open(self, call: Call, target: Target) -> Answer:
        """Raises `BadCall` for what the model cannot do, `Overloaded` where the engine has no room now."""
        if target.model != self.model:
            raise NotFound(f"The embedded engine has no model {target.model!r}.", code="model_not_found", param="model")
        try:
            async with call.deadline.within(self._clock):
                await self.engine.awake()
                match call.body:
                    case PassthroughRequest():
                        pass
                    case RerankRequest() as request:
                        return await self._rank(call, request)
                    case EmbeddingRequest() as request:
                        return await self._embed(call, request)
        except TimeoutError as late:
            raise UpstreamTimeout("The encoder did not answer within the call's time.") from late
        raise BadCall(f"The model {self.model!r} is an encoder: it cannot write text.", param="model")

    async def models(self) -> Sequence[ModelInfo]:
        length = self.engine.facts.max_length if self.engine.known else None
        return (ModelInfo(self.model, owned_by="headgate", context_length=length),)

    async def probe(self) -> Health:
        """Encodes the canonical text anew, as any call would; where others wait, steps since the last probe are proof.

        Numbers that differ from this process's first are a failure: its memory, or its model, is no longer what it was.
        """
        if self.engine.asleep:
            return Health(True, f"{self.model} is asleep")
        start = self._clock.monotonic()
        before, self._steps_seen = self._steps_seen, self.engine.stats.steps
        if self.engine.ready and self.engine.stats.waiting and self._steps_seen > before:
            return Health(True, f"{self.model} is busy encoding")
        try:
            same = self.drift.seen(await self.engine.encode(self._canonical(), fresh=True))
        except HeadgateError as error:
            return Health(False, error.message)
        if not same:
            return Health(False, f"{self.model} gives other numbers than it gave at first; restart the server")
        return Health(True, f"{self.model} encoded a text", (self._clock.monotonic() - start) * 1000)

    async def aclose(self) -> None:
        await self.engine.aclose()

    def _canonical(self) -> list[Text]:
        facts = self.engine.facts
        request = RerankRequest(model=self.model, query="fox", documents=[CANONICAL])
        if facts.ranks:
            return self._texts.pairs(request, facts.max_length)
        return self._texts.apart(request, facts.max_length)[1:]

    async def _embed(self, call: Call, request: EmbeddingRequest) -> Answer:
        if self.engine.facts.ranks:
            raise BadCall(
                f"The model {self.model!r} ranks documents and makes no embeddings; use /v1/rerank.", param="model"
            )
        if isinstance(request.input, list) and len(request.input) > INPUTS_MAX and not _is_ids(request.input):
            raise BadCall(f"'input' holds {len(request.input)} texts; {INPUTS_MAX} is the maximum.", param="input")
        texts = await self._read(call, self._texts.embedded, request)
        data = await self.engine.encode(texts, share=_share(call), dimensions=request.dimensions)
        size = request.dimensions or self.engine.facts.size
        packed = request.encoding_format == "base64"
        return _answer(await _list(data, size, call.model, texts, packed=packed), texts)

    async def _rank(self, call: Call, request: RerankRequest) -> Answer:
        """With a cross-encoder its scores, else the cosines of the query's vector with each document's."""
        if len(request.documents) > INPUTS_MAX:
            raise BadCall(
                f"There are {len(request.documents)} documents; {INPUTS_MAX} is the maximum.", param="documents"
            )
        ranks = self.engine.facts.ranks
        texts = await self._read(call, self._texts.pairs if ranks else self._texts.apart, request)
        scores = array("f", await self.engine.encode(texts, share=_share(call), cosines=not ranks)).tolist()
        order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
        shown = request.texts if request.return_documents else None
        results = [
            {"index": index, "relevance_score": scores[index]}
            | ({} if shown is None else {"document": {"text": shown[index]}})
            for index in order
        ]
        answer = {"id": self._ids.new("rank"), "model": call.model, "results": results, "usage": _usage(texts)}
        return _answer(msgspec.json.encode(answer), texts)

    async def _read(self, call: Call, read: Callable[[R, int], list[Text]], request: R) -> list[Text]:
        longest = self.engine.facts.max_length
        if len(call.raw) > INLINE_BYTES:
            return await asyncio.to_thread(read, request, longest)
        return read(request, longest)


def _is_ids(given: Sequence[object]) -> bool:
    """One text as a list of token ids."""
    return bool(given) and isinstance(given[0], int)


def _share(call: Call) -> Share:
    """Tenants take turns, in classes, and none finds another's texts in the cache."""
    return Share(call.tenant, call.tenant, PRIORITIES.index(call.priority or "normal"))


def _tokens(texts: Sequence[Text]) -> int:
    return sum(len(text.tokens) for text in texts)


def _usage(texts: Sequence[Text]) -> dict[str, int]:
    used = _tokens(texts)
    return {"prompt_tokens": used, "total_tokens": used}


async def _list(data: bytes, size: int, model: str, texts: Sequence[Text], *, packed: bool) -> bytes:
    """OpenAI's list. Written in parts: thousands of vectors as JSON would keep the event loop for a while."""
    step = size * FLOAT_BYTES
    parts = []
    for index in range(len(texts)):
        if index and index % AT_ONCE == 0:
            await asyncio.sleep(0)
        vector = data[index * step : (index + 1) * step]
        numbers: str | list[float] = b64encode(vector).decode() if packed else array("f", vector).tolist()
        parts.append(msgspec.json.encode({"object": "embedding", "index": index, "embedding": numbers}))
    rest = msgspec.json.encode({"model": model, "usage": _usage(texts)})
    return b'{"object":"list","data":[' + b",".join(parts) + b"]," + rest[1:]


def _answer(body: bytes, texts: Sequence[Text]) -> Answer:
    used = _tokens(texts)
    return Answer(body=body, usage=Usage(input=used), progress=Progress(used, 0, exact=True))
