"""A backend without a model, for tests and demonstrations: it does what its script says, and says what it is."""

import base64
import struct
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from headgate.backends.estimate import input_tokens
from headgate.backends.script import Script, script_for
from headgate.backends.smallest import smallest_instance
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError, Overloaded, Truncated, Upstream
from headgate.core.events import Event, Finish, FinishReason, Reasoning, Text, ToolDelta
from headgate.core.ports import Answer, Health, ModelInfo, Progress
from headgate.core.request import ChatRequest, CompletionRequest, EmbeddingRequest, NamedTool, RerankRequest
from headgate.core.target import Target
from headgate.core.usage import Usage

EMBEDDING_SIZE = 8
EMBEDDING_SIZE_MAX = 4_096


class ScriptedBackend:
    """Implements `core.ports.Backend` with core events; pacing goes by the clock it was given."""

    kind = "scripted"

    def __init__(
        self,
        clock: Clock,
        *,
        name: str = "scripted",
        models: Sequence[str] = ("scripted",),
        script: Script | None = None,
    ) -> None:
        self.name = name
        self._clock = clock
        self._models = tuple(models)
        self._script = script or Script()
        self.open_answers = 0
        """Answers that were opened and not closed yet."""

    async def open(self, call: Call, target: Target) -> Answer:
        script = script_for(call, target.model, self._script)
        if script.fail_status is not None and script.fail_at is None:
            raise _failure(script.fail_status)
        body = call.body
        if isinstance(body, RerankRequest):
            return _ranking(body, call.id, target.model)
        if isinstance(body, EmbeddingRequest):
            return _embeddings(body, target.model)
        progress = Progress(input_tokens=_usage(script, call, 0).input, exact=True)
        stream = self._tell(script, call, progress, _answer(script, call))
        self.open_answers += 1

        async def close() -> None:
            self.open_answers -= 1
            await stream.aclose()

        return Answer(stream=stream, progress=progress, close=close)

    async def _tell(
        self, script: Script, call: Call, progress: Progress, answer: "tuple[list[Piece], FinishReason]"
    ) -> AsyncGenerator[Event, None]:
        pieces, reason = answer
        if script.first_s:
            await self._clock.sleep(script.first_s)
        count = _count(call)
        for place, make in enumerate(pieces[: script.fail_at]):
            if script.rate is not None and place:
                await self._clock.sleep(1 / script.rate)
            for index in range(count):
                progress.output_tokens += 1
                yield make(index)
        if script.fail_at is not None:
            raise _failure(script.fail_status) if script.fail_status else Truncated("the script cuts here")
        while script.never_finish:
            await self._clock.sleep(3600.0)
        for index in range(count):
            yield Finish(script.finish or reason, index)
        yield _usage(script, call, progress.output_tokens)

    async def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(id=model, owned_by="scripted") for model in self._models]

    async def probe(self) -> Health:
        return Health(ok=True, detail="scripted: there is no model behind it", latency_ms=0.0)

    async def aclose(self) -> None:
        """Nothing is held."""


def _failure(status: int) -> HeadgateError:
    if status in {429, 503}:
        return Overloaded("the script says so", status=status, retry_after=1.0)
    if status < 500:
        return BadCall("the script says so", status=status)
    return Upstream("the script says so", status=status)


Piece = Callable[[int], Event]


def _answer(script: Script, call: Call) -> tuple[list[Piece], FinishReason]:
    """The events of one choice, each made for an index; and why it ends."""
    body = call.body
    limit = _limit(call)
    tool = None if script.text is not None or script.echo or script.tokens is not None else _tool(script, body)
    if tool is not None:
        return _tool_pieces(*tool), "tool_calls"
    words = _words(_until_stop(_text(script, body), body))
    pieces = _reasoning(script) + [_text_piece(word) for word in words]
    if limit is not None and len(pieces) > limit:
        return pieces[:limit], "length"
    return pieces, "stop"


def _text_piece(word: str) -> Piece:
    return lambda index: Text(word, index)


def _reasoning(script: Script) -> list[Piece]:
    if script.reasoning is None:
        return []

    def make(word: str) -> Piece:
        return lambda index: Reasoning(word, index)

    return [make(word) for word in _words(script.reasoning)]


def _tool_pieces(name: str, arguments: object) -> list[Piece]:
    text = msgspec.json.encode(arguments).decode()
    half = (len(text) + 1) // 2  # in two pieces, as real servers send them

    def first(index: int) -> Event:
        return ToolDelta(text[:half], id=f"call_scripted_{index}", name=name, index=index)

    return [first, lambda index: ToolDelta(text[half:], index=index)]


def _words(text: str) -> list[str]:
    """Words with the blank before them, so that joined they are the text again."""
    words: list[str] = []
    for word in text.split(" "):
        words.append(word if not words else " " + word)
    return [word for word in words if word]


def _text(script: Script, body: ChatRequest | CompletionRequest | EmbeddingRequest) -> str:
    if script.text is not None:
        return script.text
    if script.tokens is not None:
        return " ".join(f"w{number}" for number in range(script.tokens))
    if isinstance(body, ChatRequest) and body.response_format is not None and not script.echo:
        wanted = body.response_format
        if wanted.type == "json_object":
            return "{}"
        if wanted.type == "json_schema" and wanted.json_schema is not None:
            return msgspec.json.encode(_smallest(wanted.json_schema.schema_ or {})).decode()
    return _last_user_text(body)


def _until_stop(text: str, body: ChatRequest | CompletionRequest | EmbeddingRequest) -> str:
    if isinstance(body, EmbeddingRequest) or not body.stop:
        return text
    stops = [body.stop] if isinstance(body.stop, str) else body.stop
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


def _smallest(schema: object) -> object:
    try:
        return smallest_instance(schema)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadCall(f"the scripted backend cannot fill this schema: {error}") from error


def _last_user_text(body: ChatRequest | CompletionRequest | EmbeddingRequest) -> str:
    if isinstance(body, CompletionRequest):
        prompt = body.prompt
        return prompt if isinstance(prompt, str) else " ".join(str(part) for part in prompt)
    if isinstance(body, ChatRequest):
        for message in reversed(body.messages):
            if message.role == "user" and message.content is not None:
                content = message.content
                if isinstance(content, str):
                    return content
                return "".join(part["text"] for part in content if isinstance(part.get("text"), str))
    return ""


def _tool(script: Script, body: ChatRequest | CompletionRequest | EmbeddingRequest) -> tuple[str, object] | None:
    """Which tool to call with what: the script's, else the one the caller demands."""
    if not isinstance(body, ChatRequest):
        return None
    known = {tool.function.name: tool.function for tool in body.tools or () if tool.function is not None}
    name = script.tool
    choice = body.tool_choice
    if name is None and isinstance(choice, NamedTool) and choice.function is not None:
        name = choice.function.name
    if name is None and choice == "required":
        name = next(iter(known), None)
    if name is None:
        return None
    if script.arguments is not None:
        return name, script.arguments
    function = known.get(name)
    return name, _smallest((function.parameters if function is not None else None) or {"type": "object"})


def _count(call: Call) -> int:
    body = call.body
    return 1 if isinstance(body, EmbeddingRequest) else body.n or 1


def _limit(call: Call) -> int | None:
    body = call.body
    if isinstance(body, ChatRequest) and body.max_completion_tokens is not None:
        return body.max_completion_tokens
    if isinstance(body, EmbeddingRequest):
        return None
    return body.max_tokens if body.max_tokens is not None else call.output_cap


def _usage(script: Script, call: Call, output: int) -> Usage:
    given = script.usage
    if given is None:
        return Usage(input=input_tokens(call), output=output)
    return Usage(input=given.input, cached=given.cached, output=given.output, reasoning=given.reasoning)


def _embeddings(body: EmbeddingRequest, model: str) -> Answer:
    given = body.input
    texts = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else list(given)
    size = body.dimensions or EMBEDDING_SIZE
    if size > EMBEDDING_SIZE_MAX:
        raise BadCall(f"dimensions may be {EMBEDDING_SIZE_MAX} at most", param="dimensions")
    vectors = []
    for position, text in enumerate(texts):
        content = str(text).encode()
        weights = [1.0 + sum(content[place::size]) % 97 for place in range(size)]
        length = sum(weight * weight for weight in weights) ** 0.5
        vector: list[float] | str = [round(weight / length, 6) for weight in weights]
        if body.encoding_format == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        vectors.append({"object": "embedding", "index": position, "embedding": vector})
    used = sum(len(str(text).split()) for text in texts)
    usage = {"prompt_tokens": used, "total_tokens": used}
    answer = {"object": "list", "data": vectors, "model": model, "usage": usage}
    return Answer(body=msgspec.json.encode(answer), usage=Usage(input=used), progress=Progress(used, 0, exact=True))


def _ranking(body: RerankRequest, call_id: str, model: str) -> Answer:
    """By the part of the query's words that a document has."""
    asked = set(body.query.lower().split())
    scores = [len(asked & set(text.lower().split())) / max(1, len(asked)) for text in body.texts]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = [{"index": index, "relevance_score": scores[index]} for index in order]
    used = sum(len(text.split()) for text in (body.query, *body.texts))
    usage = {"prompt_tokens": used, "total_tokens": used}
    answer = {"id": call_id, "model": model, "results": results, "usage": usage}
    return Answer(body=msgspec.json.encode(answer), usage=Usage(input=used), progress=Progress(used, 0, exact=True))
