"""OpenAI's answer bodies: is it one, and what did it use."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headgate.backends.estimate import tokens_of
from headgate.backends.openai_errors import clean
from headgate.core.call import Operation
from headgate.core.errors import HeadgateError, Truncated, Upstream
from headgate.core.usage import Usage

TOKENS_MAX = 20_000_000
"""No single answer uses more; a figure beyond it is a fault of the upstream and is replaced by our own count."""


class _Body(Struct):
    choices: list[Raw] | None = None
    data: list[Raw] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Texts(Struct):
    """Where a choice keeps its text; only read when the upstream gave no usage."""

    text: Raw = Raw()
    message: Raw = Raw()


_body = msgspec.json.Decoder(_Body)
_texts = msgspec.json.Decoder(_Texts)
Undecodable = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_HALF = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
"""The escape of a surrogate: half of a code point beyond the first 65,536."""
T = TypeVar("T")


def look_into(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Decodes what a model server sent. Raises `Undecodable`.

    A server in JavaScript may cut an emoji in two: each half is legal JSON, and msgspec refuses it. For the look the
    halves are replaced; what passes on is what came.
    """
    try:
        return decoder.decode(data)
    except msgspec.DecodeError:
        if not _HALF.search(data):
            raise
        return decoder.decode(_HALF.sub(rb"\\ufffd", data))


def given(raw: Raw | UnsetType) -> Raw | None:
    """None where the member is missing or null."""
    return None if raw is UNSET or bytes(raw) == b"null" else raw


def read_body(body: bytes, operation: Operation, input_estimate: int, secret: str = "") -> Usage:
    """Checks that `body` is an answer to `operation` and reads its usage. Raises `Upstream` where it is none."""
    try:
        if not body.isascii():
            body.decode()
        found = look_into(_body, body)
    except Undecodable as wrong:
        raise Upstream("the model server's answer is not the JSON it should be", code="upstream_bad_answer") from wrong
    error = given(found.error)
    if error is not None:
        raise error_in(error, secret)
    parts = found.data if operation == "embedding" else found.choices
    if not parts:
        raise Upstream("the model server's answer holds no result", code="upstream_bad_answer")
    count = partial(_count, parts) if operation != "embedding" else None
    usage = read_usage(given(found.usage), input_estimate, count)
    if usage is None:
        usage = Usage(input=input_estimate, output=count() if count is not None else 0, estimated=True)
    return usage


def error_in(raw: Raw, secret: str = "") -> HeadgateError:
    """The error for an `error` object inside an answer that claimed success."""
    message = ""
    try:
        found = msgspec.json.decode(raw)
    except Undecodable:
        found = None
    if isinstance(found, dict):
        found = found.get("message")
    if isinstance(found, str):
        message = ": " + clean(found, secret)
    return Upstream("the model server reported an error" + message)


def read_usage(raw: Raw | None, input_estimate: int, count_output: Callable[[], int] | None) -> Usage | None:
    """None where there is no usage object. A figure that cannot be true is replaced by our own and flagged.

    `count_output` is None where the answer has no output tokens, as embeddings.
    """
    if raw is None:
        return None
    try:
        found = msgspec.json.decode(raw)
    except Undecodable:
        return None
    if not isinstance(found, dict):
        return None
    figures = _figure(found.get("prompt_tokens")), _figure(found.get("completion_tokens")) if count_output else 0
    prompt = input_estimate if figures[0] is None else figures[0]
    output = figures[1] if figures[1] is not None else count_output() if count_output is not None else 0
    inputs, outputs = _details(found, "prompt_tokens_details"), _details(found, "completion_tokens_details")
    cached = _figure(inputs.get("cached_tokens", found.get("prompt_cache_hit_tokens"))) or 0
    return Usage(
        input=prompt,
        cached=min(cached, prompt),
        cache_write=min(_figure(inputs.get("cache_write_tokens")) or 0, prompt),
        output=output,
        reasoning=min(_figure(outputs.get("reasoning_tokens")) or 0, output),
        estimated=None in figures,
    )


def _figure(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value <= TOKENS_MAX else None


def _details(found: dict[str, Any], name: str) -> dict[str, Any]:
    details = found.get(name)
    return details if isinstance(details, dict) else {}


def _count(choices: list[Raw]) -> int:
    """The bytes of all texts and messages: names and punctuation of the JSON are the error of the estimate."""
    size = 0
    for choice in choices:
        try:
            found = _texts.decode(choice)
        except Undecodable:
            continue
        size += len(bytes(found.text)) + len(bytes(found.message))
    return tokens_of(size)


def cut_short() -> Truncated:
    return Truncated("the model server's answer ended before it was complete")
