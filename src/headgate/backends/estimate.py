"""A rough count of tokens for calls whose upstream gives none. It is always flagged as an estimate where it is used."""

from collections.abc import Iterable
from typing import Any

from headgate.core.call import Call
from headgate.core.request import ChatRequest, CompletionRequest, RerankRequest

BYTES_PER_TOKEN = 4
PART_TOKENS = 1_000
"""What one image, sound or file is taken for."""
MESSAGE_TOKENS = 4
_SMALL_BYTES = 16 * 1024


def tokens_of(size_bytes: int) -> int:
    return -(-size_bytes // BYTES_PER_TOKEN)


def input_tokens(call: Call) -> int:
    """The whole body's bytes where it is small; else its texts, so that an inlined image is not counted as text.

    Images, sounds and files count for themselves: one that is named by its address has hardly any bytes.
    """
    body = call.body
    if len(call.raw) <= _SMALL_BYTES:
        return tokens_of(len(call.raw)) + (PART_TOKENS * _media(body) if isinstance(body, ChatRequest) else 0)
    if isinstance(body, ChatRequest):
        tools = sum(len(str(tool.function)) for tool in body.tools or ())
        return tokens_of(tools) + sum(MESSAGE_TOKENS + _content(message.content) for message in body.messages)
    if isinstance(body, RerankRequest):
        return _prompt(body.query) + _prompt(body.texts)
    return _prompt(body.prompt if isinstance(body, CompletionRequest) else body.input)


def _media(body: ChatRequest) -> int:
    count = 0
    for message in body.messages:
        if type(message.content) is list:
            count += sum("text" not in part for part in message.content)
    return count


def _content(content: str | list[dict[str, Any]] | None) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return tokens_of(len(content.encode()))
    texts = [part.get("text") for part in content]
    return sum(tokens_of(len(text.encode())) if isinstance(text, str) else PART_TOKENS for text in texts)


def _prompt(prompt: str | Iterable[Any]) -> int:
    if isinstance(prompt, str):
        return tokens_of(len(prompt.encode()))
    return sum(1 if isinstance(item, int) else _prompt(item) for item in prompt)
