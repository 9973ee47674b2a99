"""Rules between fields, which types alone cannot say. Each raises `BadCall` naming the field to change."""

from headgate.core.errors import BadCall
from headgate.core.request import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    NamedTool,
    Prompt,
    RerankRequest,
    Sampling,
    Tool,
    ToolCall,
)


def _no(message: str, param: str) -> BadCall:
    return BadCall(message, param=param, code="invalid_value")


def _check_stream(body: Sampling) -> None:
    if body.stream_options is not None and not body.stream:
        raise _no("'stream_options' is allowed only with 'stream': true.", "stream_options")


def check_chat(body: ChatRequest) -> None:
    _check_stream(body)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise _no("Set 'max_completion_tokens' or the older 'max_tokens', not both.", "max_tokens")
    if body.top_logprobs is not None and not body.logprobs:
        raise _no("'top_logprobs' is allowed only with 'logprobs': true.", "top_logprobs")
    shape = body.response_format
    if shape is not None and shape.type == "json_schema" and shape.json_schema is None:
        raise _no("A 'json_schema' format needs its schema.", "response_format.json_schema")
    for place, message in enumerate(body.messages):
        if message.tool_calls:
            _check_calls(message.tool_calls, f"messages[{place}].tool_calls")
    if body.tools:
        _check_tools(body.tools, body)
    elif body.tool_choice is not None and body.tool_choice != "none":
        raise _no("'tool_choice' is allowed only with 'tools'.", "tool_choice")


def _check_calls(calls: list[ToolCall], param: str) -> None:
    for place, call in enumerate(calls):
        if call.type == "function" and call.function is None:
            raise BadCall(
                f"Missing required parameter: '{param}[{place}].function'.",
                param=f"{param}[{place}].function",
                code="missing_required_parameter",
            )


def _check_tools(tools: list[Tool], body: ChatRequest) -> None:
    names: set[str] = set()
    for place, tool in enumerate(tools):
        if tool.type != "function":
            continue
        if tool.function is None:
            raise _no("A tool of type 'function' needs 'function'.", f"tools[{place}].function")
        name = tool.function.name
        if not name.strip():
            raise _no("A function's name may not be blank.", f"tools[{place}].function.name")
        if name in names:
            raise _no("Two functions have the same name.", f"tools[{place}].function.name")
        names.add(name)
    choice = body.tool_choice
    if isinstance(choice, NamedTool) and choice.type == "function":
        if choice.function is None:
            raise _no("'tool_choice' of type 'function' needs 'function'.", "tool_choice.function")
        if choice.function.name not in names:
            raise _no("'tool_choice' names a function that 'tools' has not.", "tool_choice.function.name")


def check_completion(body: CompletionRequest) -> None:
    _check_stream(body)
    _check_texts(body.prompt, "prompt")
    best_of = body.best_of
    if best_of is not None:
        if best_of < (body.n or 1):
            raise _no("'best_of' may not be smaller than 'n'.", "best_of")
        if body.stream and best_of > 1:
            raise _no("'best_of' above 1 cannot be streamed.", "best_of")


def check_embedding(body: EmbeddingRequest) -> None:
    if body.input == "":
        raise _no("There is nothing to embed: the text is empty.", "input")
    _check_texts(body.input, "input")


def check_rerank(body: RerankRequest) -> None:
    if not body.query.strip():
        raise _no("There is nothing to rank by: the query is empty.", "query")


def _check_texts(value: Prompt, param: str) -> None:
    if isinstance(value, str):
        return
    if not value:
        raise _no(f"'{param}' is an empty list.", param)
    for place, item in enumerate(value):
        if item == []:
            raise _no(f"'{param}' holds an empty list.", f"{param}[{place}]")
