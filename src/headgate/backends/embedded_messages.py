"""From a request's conversation to what a chat template reads: messages, tools, and the template's own variables."""

import hashlib
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from headgate.backends.chat_template import Message
from headgate.core.errors import BadCall
from headgate.core.request import ChatRequest, Tool, ToolCall
from headgate.core.request import Message as ChatMessage

_OURS = {"messages", "tools", "documents", "response_schema", "add_generation_prompt", "bos_token", "eos_token"}
"""Variables that the request's other fields set."""
_SWITCHES = ("enable_thinking", "thinking")
"""By what name templates know whether the model shall reason: Qwen, DeepSeek and others."""
_SHORT_ID = 9


def message(given: ChatMessage, *, short_ids: bool = False) -> Message:
    """As templates expect it: content as text, arguments of calls as objects.

    `short_ids`: calls are named by nine letters and digits, as Mistral's templates insist.
    """
    named = _short if short_ids else str
    out: Message = {"role": given.role, "content": content(given.content)}
    if given.name is not None:
        out["name"] = given.name
    if given.tool_call_id is not None:
        out["tool_call_id"] = named(given.tool_call_id)
    if given.reasoning_content is not None:
        out["reasoning_content"] = given.reasoning_content
    if given.tool_calls:
        out["tool_calls"] = [_call(call, named) for call in given.tool_calls]
    return out


def content(given: str | list[dict[str, Any]] | None) -> str:
    """The text of a message. Raises `BadCall` for what is no text."""
    if given is None or isinstance(given, str):
        return given or ""
    texts: list[str] = []
    for part in given:
        text = part.get("text", part.get("refusal"))
        if part.get("type") not in {"text", "refusal"} or not isinstance(text, str):
            raise BadCall(f"This model reads text only, not content of type {part.get('type')!r}.", param="messages")
        texts.append(text)
    return "".join(texts)


def tool(given: Tool) -> Message:
    """Raises `BadCall` for what is no function."""
    if given.type != "function" or given.function is None:
        raise BadCall(f"This model can call functions only, not tools of type {given.type!r}.", param="tools")
    try:
        out: Message = msgspec.to_builtins(given)
    except RecursionError as error:
        raise BadCall("tools: this is nested too deeply.", param="tools") from error
    out["function"] = {key: value for key, value in out["function"].items() if value is not None}
    return out


def variables(request: ChatRequest, known: Collection[str]) -> Message:
    """What the caller sets of a template that reads the `known` variables; it does not see the others.

    `reasoning_effort` also turns reasoning on or off, where the template has a switch and the caller left it alone.
    """
    given = request.chat_template_kwargs or {}
    taken = sorted(_OURS & given.keys())
    if taken:
        raise BadCall(
            f"chat_template_kwargs cannot set {', '.join(taken)}: other fields of the request do.",
            param="chat_template_kwargs",
        )
    out: Message = {}
    effort = request.reasoning_effort
    if effort is not None:
        out["reasoning_effort"] = effort
        out.update(dict.fromkeys(_SWITCHES, effort != "none"))
    return {name: value for name, value in {**out, **given}.items() if name in known}


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The value with each text in it changed, keys too."""
    match value:
        case str():
            return change(value)
        case list():
            return [each_text(one, change) for one in value]
        case dict():
            return {change(key): each_text(one, change) for key, one in value.items()}
        case _:
            return value


def _call(call: ToolCall, named: Callable[[str], str]) -> Message:
    if call.function is None:
        raise BadCall(f"This model knows calls of functions only, not of type {call.type!r}.", param="messages")
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": named(call.id), "type": "function", "function": function}


def _arguments(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def _short(name: str) -> str:
    """Nine letters and digits: the name itself, or always the same ones for it."""
    if len(name) == _SHORT_ID and name.isascii() and name.isalnum():
        return name
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()[:_SHORT_ID]
