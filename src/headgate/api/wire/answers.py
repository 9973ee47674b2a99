"""Whole answers, as OpenAI's clients read them."""

from typing import Literal

from msgspec import Struct

from headgate.core.usage import Usage

Finish = str | None


class CachedDetails(Struct, frozen=True):
    cached_tokens: int


class ReasoningDetails(Struct, frozen=True):
    reasoning_tokens: int


class UsageBody(Struct, frozen=True):
    """`prompt_tokens` includes the cached ones, `completion_tokens` the reasoning."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedDetails
    completion_tokens_details: ReasoningDetails


def usage_body(usage: Usage) -> UsageBody:
    return UsageBody(
        usage.input, usage.output, usage.total, CachedDetails(usage.cached), ReasoningDetails(usage.reasoning)
    )


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]


class TokenLogprobBody(Struct, frozen=True):
    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[TokenLogprobBody]
    refusal: None = None


class FunctionBody(Struct, frozen=True):
    name: str
    arguments: str


class ToolCallBody(Struct, frozen=True):
    id: str
    function: FunctionBody
    type: Literal["function"] = "function"


class _Omitting(Struct, frozen=True, omit_defaults=True, kw_only=True):
    tool_calls: list[ToolCallBody] | None = None
    reasoning_content: str | None = None


class AnswerMessage(_Omitting, frozen=True, kw_only=True):
    role: str
    content: str | None
    refusal: str | None


class ChatChoice(Struct, frozen=True):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Finish


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageBody | None


class TextLogprobs(Struct, frozen=True):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(Struct, frozen=True):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish


class TextCompletion(Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/completions`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: UsageBody | None


class EmbeddingItem(Struct, frozen=True):
    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: EmbeddingUsage


class DocumentBody(Struct, frozen=True):
    text: str


class RankedItem(Struct, frozen=True, omit_defaults=True):
    index: int
    """Of the document, in the order of the request."""
    relevance_score: float
    document: DocumentBody | None = None


class Ranking(Struct, frozen=True, kw_only=True):
    """The answer of `POST /v1/rerank`: the most relevant first."""

    id: str
    model: str
    results: list[RankedItem]
    usage: EmbeddingUsage


class Model(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


class ErrorObject(Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Struct, frozen=True):
    """What every refusal and failure looks like."""

    error: ErrorObject
