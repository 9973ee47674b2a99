"""OpenAI's answer bodies: is it one, and what did it use."""

import re
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headgate.backends.estimate import tokens_of
from headgate.backends.http.exchange import Exchange
from headgate.backends.openai_errors import error_inside
from headgate.backends.sse import EventTooLarge, SseDecoder, SseEvent
from headgate.core.call import Operation
from headgate.core.errors import HeadgateError, Truncated, Upstream
from headgate.core.events import Event, Finish
from headgate.core.ports import Progress
from headgate.core.usage import Usage

TOKENS_MAX = 20_000_000
"""No single answer uses more; a figure beyond it is a fault of the upstream and is replaced by our own count."""


class _Body(Struct):
    choices: list[Raw] | None = None
    data: list[Raw] | None = None
    results: list[Raw] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


class _Texts(Struct):
    """Where a choice keeps its text; only read when the upstream gave no usage."""

    text: Raw = Raw()
    message: Raw = Raw()


class _Anything(Struct):
    """Where answers of kinds that are not known here keep their usage; responses have it one deeper in streams."""

    usage: Raw | UnsetType = UNSET
    response: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_PART = 1 << 20
_body = msgspec.json.Decoder(_Body)
_anything = msgspec.json.Decoder(_Anything)
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


def check_utf8(data: bytes) -> None:
    """Raises `UnicodeDecodeError`. In a text one wide character makes four bytes of each: large bodies go in parts."""
    if data.isascii():
        return
    if len(data) <= _PART:
        data.decode()
        return
    decoder = getincrementaldecoder("utf-8")()
    for place in range(0, len(data), _PART):
        decoder.decode(data[place : place + _PART])
    decoder.decode(b"", final=True)


def read_body(body: bytes, operation: Operation, input_estimate: int, secret: str = "") -> Usage:
    """Checks that `body` is an answer to `operation` and reads its usage. Raises `Upstream` where it is none."""
    try:
        check_utf8(body)
        found = look_into(_body, body)
    except Undecodable as wrong:
        raise Upstream("the model server's answer is not the JSON it should be", code="upstream_bad_answer") from wrong
    error = given(found.error)
    if error is not None:
        raise error_in(error, secret)
    textless = operation in {"embedding", "rerank"}
    parts = found.choices if not textless else found.data if operation == "embedding" else found.results
    if not parts:
        raise Upstream("the model server's answer holds no result", code="upstream_bad_answer")
    count = None if textless else partial(_count, parts)
    usage = read_usage(given(found.usage), input_estimate, count)
    if usage is None:
        usage = Usage(input=input_estimate, output=count() if count is not None else 0, estimated=True)
    return usage


def error_in(raw: Raw, secret: str = "") -> HeadgateError:
    """The error for an `error` object inside an answer that claimed success."""
    try:
        found = msgspec.json.decode(raw)
    except Undecodable:
        found = None
    return error_inside({"error": found} if isinstance(found, str) else found, secret)


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
    told = found.get("prompt_tokens", None if count_output else found.get("total_tokens"))  # rerankers tell no more
    figures = _figure(told), _figure(found.get("completion_tokens")) if count_output else 0
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


# Answers of kinds that are not known here


def usage_anywhere(data: bytes, input_estimate: int) -> Usage | None:
    """The usage of a JSON answer, or of an event of a stream, under OpenAI's older names or newer ones."""
    try:
        found = look_into(_anything, data)
        inner = given(found.response)
        if found.usage is UNSET and inner is not None:
            found = look_into(_anything, bytes(inner))
        raw = given(found.usage)
        usage = None if raw is None else msgspec.json.decode(raw)
    except Undecodable:
        return None
    if not isinstance(usage, dict):
        return None
    prompt = _either(usage, "prompt_tokens", "input_tokens")
    output = _either(usage, "completion_tokens", "output_tokens")
    estimated = prompt is None
    if prompt is None and output is None:
        prompt = _figure(usage.get("total_tokens"))  # rerankers tell no more
        estimated = False
        if prompt is None:
            return None
    prompt, output = input_estimate if prompt is None else prompt, output or 0
    inputs = _details(usage, "prompt_tokens_details") or _details(usage, "input_tokens_details")
    outputs = _details(usage, "completion_tokens_details") or _details(usage, "output_tokens_details")
    return Usage(
        input=prompt,
        cached=min(_figure(inputs.get("cached_tokens")) or 0, prompt),
        cache_write=min(_figure(inputs.get("cache_write_tokens")) or 0, prompt),
        output=output,
        reasoning=min(_figure(outputs.get("reasoning_tokens")) or 0, output),
        estimated=estimated,
    )


def usage_of_whole(data: bytes, content_type: bytes, input_estimate: int) -> Usage | None:
    """The usage that a whole answer tells: JSON, or events that came although `stream` was not asked for."""
    kind = content_type.lower()
    if b"json" in kind:
        return usage_anywhere(data, input_estimate)
    if not kind.startswith(b"text/event-stream"):
        return None
    decoder, usage = SseDecoder(len(data) + 1), None
    for event in (*decoder.feed(data), *decoder.finish()):
        usage = usage_anywhere(event.data, input_estimate) or usage
    return usage


def _either(usage: dict[str, Any], older: str, newer: str) -> int | None:
    return _figure(usage.get(older, usage.get(newer)))


class Passing:
    """A stream of events of a kind that is not known here: whole frames as they come, without `[DONE]`.

    Where `[DONE]` came, a `Finish` stands for it; at the end comes the usage: what the last event with one told, else
    an estimate of one token an event. The stream is complete where the body ends as HTTP wants it, after a whole event.
    """

    def __init__(self, exchange: Exchange, progress: Progress, limit_bytes: int, secret: str) -> None:
        self._exchange = exchange
        self._progress = progress
        self._limit = limit_bytes
        self._secret = secret
        self._decoder = SseDecoder(limit_bytes)
        self._held = bytearray()
        self._items: deque[Event | bytes] = deque()
        self._usage: Usage | None = None
        self._ended = False
        self._error: HeadgateError | None = None

    def __aiter__(self) -> "Passing":
        return self

    async def __anext__(self) -> Event | bytes:
        while not self._items:
            if self._error is not None:
                self._exchange.abort()
                raise self._error
            if self._ended:
                self._exchange.drain()
                raise StopAsyncIteration
            try:
                data = await self._exchange.__anext__()
            except StopAsyncIteration:
                self._finish()
            else:
                self._feed(data)
        return self._items.popleft()

    async def aclose(self) -> None:
        if self._exchange.open:
            self._exchange.abort()

    def _feed(self, data: bytes) -> None:
        held = self._held
        known = max(0, len(held) - 3)
        held += data
        end = _last_gap(held, known)
        block = bytes(held[:end])
        del held[:end]
        if len(held) > self._limit:
            self._error = Upstream("the model server sent an event that is too large", code="upstream_bad_answer")
        elif block:
            self._read(block)

    def _finish(self) -> None:
        """What is left must be a whole event: only the blank line after it may be missing."""
        rest = bytes(self._held)
        if rest.strip() and not self._read(rest.rstrip() + b"\n\n", last=True):
            self._error = cut_short()
        elif self._error is None and not self._ended:
            self._end()

    def _read(self, block: bytes, *, last: bool = False) -> bool:
        """Whether its events are whole; the last of a stream is only taken for that where it is JSON."""
        try:
            events = self._decoder.feed(block)
        except EventTooLarge:
            self._error = Upstream("the model server sent an event that is too large", code="upstream_bad_answer")
            return True
        for event in events:
            if event.data.startswith(b"[DONE]"):
                mark = _DONE.search(block)
                before = block[: _last_gap(block[: mark.start() + 1])] if mark is not None else b""
                self._items.extend([before] if before else [])
                self._items.append(Finish("stop"))
                self._end()
                return True
            if last and not _is_json(event.data):
                return False
            self._look_at(event)
            if self._error is not None:
                return True
        if events:
            self._exchange.progress()  # comments keep a connection alive, not an answer
        self._items.append(block)
        return True

    def _look_at(self, event: SseEvent) -> None:
        self._progress.output_tokens += 1
        if b'"usage"' in event.data:
            self._usage = usage_anywhere(event.data, self._progress.input_tokens) or self._usage
        if event.event != b"error" and b'"error"' not in event.data:
            return
        try:
            told = given(look_into(_anything, event.data).error)
        except Undecodable:
            told = None
        if told is not None or event.event == b"error":
            self._error = error_in(told if told is not None else Raw(event.data), self._secret)

    def _end(self) -> None:
        self._ended = True
        progress = self._progress
        if self._usage is None:
            self._usage = Usage(input=progress.input_tokens, output=progress.output_tokens, estimated=True)
        self._items.append(self._usage)


_GAPS = (b"\n\n", b"\r\n\r\n", b"\r\r")
"""What ends an event."""
_DONE = re.compile(rb"(?:^|[\r\n])data: ?\[DONE\]")


def _last_gap(data: bytes | bytearray, start: int = 0) -> int:
    """Where the last event that ends in `data` ends; 0 where none does."""
    return max((place + len(gap) for gap in _GAPS if (place := data.rfind(gap, start)) >= 0), default=0)


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except Undecodable:
        return False
    return True
