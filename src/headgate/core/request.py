"""The bodies a caller may send, decoded once. Names and limits are OpenAI's; unknown fields live on in the raw bytes.

Ranges are part of the types, so a wrong value is refused while decoding, with the path of the field.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Penalty = Annotated[float, Meta(ge=-2.0, le=2.0)]
Count = Annotated[int, Meta(ge=1, le=128)]
Tokens = Annotated[int, Meta(ge=1, le=2**31 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Stop = str | Annotated[list[str], Meta(max_length=16)] | None
LogitBias = dict[str, Annotated[float, Meta(ge=-100, le=100)]]
COMPLETION_TOKENS = 16
"""The answer's length where a completion sets no maximum, as OpenAI has it."""
Prompt = str | Annotated[list[str | int | list[int]], Meta(min_length=1)]
"""One text, several texts, one list of token ids, or several such lists; never mixed (see `prompts`)."""


class FunctionCall(Struct, frozen=True):
    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    id: str
    function: FunctionCall | None = None
    """Always there where `type` is `function`; other types are for model servers that know them."""
    type: str = "function"


class Message(Struct, frozen=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None


class Function(Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct, frozen=True):
    type: str
    function: Function | None = None


class NamedFunction(Struct, frozen=True):
    name: str


class NamedTool(Struct, frozen=True):
    type: str
    function: NamedFunction | None = None


class JsonSchema(Struct, frozen=True, rename={"schema_": "schema"}):
    name: str
    schema_: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormat(Struct, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StructuredOutputs(Struct, frozen=True):
    """vLLM's: the form of the answer; exactly one of these."""

    json: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | dict[str, Any] | None = None
    """For model servers that know it."""


class StreamOptions(Struct, frozen=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Sampling(Struct, frozen=True, kw_only=True):
    """What chat and completions share."""

    model: Name
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Probability | None = None
    n: Count | None = None
    max_tokens: Tokens | None = None
    stop: Stop = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=128)] | None = None
    """vLLM's: tokens that end the answer besides the model's own, and are no part of it."""
    seed: Seed | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    logit_bias: LogitBias | None = None
    include_stop_str_in_output: bool | None = None
    """vLLM's: what stopped the answer, a text or a token, stays at its end."""
    skip_special_tokens: bool | None = None
    """vLLM's: false shows special tokens as text."""
    bad_words: Any = None
    """vLLM's, and so the next three: for model servers that know them."""
    allowed_token_ids: Any = None
    prompt_logprobs: Any = None
    use_beam_search: Any = None
    ignore_eos: bool | None = None
    min_tokens: Annotated[int, Meta(ge=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    """vLLM's older spelling of `structured_outputs`, and so the next three."""
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None

    @property
    def formed(self) -> bool:
        """The answer shall have a form: a program will read it, and it cannot be gone on with as if it were text."""
        shaped = self.response_format is not None and self.response_format.type != "text"
        vllm = (self.structured_outputs, self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)
        return shaped or any(one is not None for one in vllm)


class ChatRequest(Sampling, frozen=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=20_000)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=1_024)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = None
    """vLLM's: the last message is the assistant's, and the answer goes on with it."""
    reasoning_effort: str | None = None
    """OpenAI's; which efforts there are depends on the model. `none` turns reasoning off."""
    include_reasoning: bool | None = None
    """OpenRouter's and vLLM's: false leaves the reasoning out of the answer; its tokens count all the same."""
    chat_template_kwargs: dict[str, Any] | None = None
    """vLLM's: variables for the model's chat template."""


class CompletionRequest(Sampling, frozen=True, kw_only=True):
    """`POST /v1/completions`."""

    prompt: Prompt
    suffix: str | None = None
    echo: bool | None = None
    best_of: Count | None = None
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None

    def __post_init__(self) -> None:
        prompts(self.prompt, "prompt")


class EmbeddingRequest(Struct, frozen=True, kw_only=True):
    """`POST /v1/embeddings`."""

    model: Name
    input: Prompt
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    """vLLM's: longer texts are cut to so many tokens; -1: to as many as the model takes."""
    user: str | None = None

    def __post_init__(self) -> None:
        prompts(self.input, "input")


class RankedDocument(Struct, frozen=True):
    text: str


class RerankRequest(EmbeddingRequest, frozen=True, kw_only=True):
    """`POST /v1/rerank`, in the dialect that Cohere, Jina and vLLM share.

    It is a kind of `EmbeddingRequest` because to whoever does not ask further it is one: it has no choices, no stops,
    and an answer that is no text.
    """

    input: Prompt = ""
    """Not looked for: query and documents stand for it."""
    query: str
    documents: Annotated[list[str | RankedDocument], Meta(min_length=1, max_length=10_000)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    """The most results; all where it is not set."""
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Meta(ge=1)] | None = None
    """Cohere's: longer documents are cut to so many tokens."""

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [document if isinstance(document, str) else document.text for document in self.documents]


class PassthroughRequest(EmbeddingRequest, frozen=True, kw_only=True):
    """`POST /passthrough/{backend}/{path}`: what is known of a body that Headgate does not know.

    It is a kind of `EmbeddingRequest` because whoever does not ask further may take it for one: it has no choices, no
    stops, and an answer that need not be text.
    """

    input: Prompt = ""
    """Not looked for: `input_tokens` says how much there is."""
    path: str
    """Below the backend's base URL, without a slash in front; checked, so that it cannot leave it."""
    input_tokens: int
    """Estimated from the body's bytes."""
    max_output: int | None = None
    """The largest of the maxima that the body sets, by whatever name."""
    answers: int = 1
    metadata: dict[str, Any] | None = None


def prompts(given: Prompt, field: str = "prompt") -> list[str | list[int]]:
    """Each prompt by itself: a text, or a list of token ids. Raises `ValueError` where kinds are mixed."""
    if isinstance(given, str):
        return [given]
    texts = [item for item in given if isinstance(item, str)]
    ids = [item for item in given if isinstance(item, int)]
    lists = [item for item in given if isinstance(item, list)]
    if len(texts) == len(given):
        return [*texts]
    if len(ids) == len(given):
        return [ids]
    if len(lists) == len(given):
        return [*lists]
    raise ValueError(f"`{field}` must hold only texts, only token ids, or only lists of token ids")
