"""An OpenAI stream on its way through: frames pass as they came, each looked into once for its end, usage or error.

`FrameReader` is without I/O; `Relay` joins it to an exchange.
"""

from collections import deque

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headgate.backends.estimate import BYTES_PER_TOKEN
from headgate.backends.http.exchange import Exchange
from headgate.backends.http.pace import Pace
from headgate.backends.openai_answer import Undecodable, cut_short, error_in, given, look_into, read_usage
from headgate.backends.sse import EventTooLarge, SseDecoder, SseEvent
from headgate.core.errors import HeadgateError, Upstream
from headgate.core.events import Event, Finish, FinishReason
from headgate.core.ports import Progress
from headgate.core.usage import Usage

_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_NOTHING = frozenset({b'""', b"[]", b"null"})
_NULL_USAGE = b',"usage":null'
_USAGE = b'"usage"'


class _Delta(Struct, gc=False):
    """Only what tells whether something is said. Names in the order of how often they do."""

    content: Raw | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    reasoning_content: Raw | UnsetType = UNSET
    reasoning: Raw | UnsetType = UNSET
    refusal: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    reasoning_details: Raw | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET

    def size(self) -> int:
        """Bytes of JSON that say something."""
        said = (
            self.content, self.tool_calls, self.reasoning_content, self.reasoning, self.refusal, self.function_call,
            self.reasoning_details, self.audio,
        )  # fmt: skip
        return sum(len(bytes(part)) for part in said if part is not UNSET and bytes(part) not in _NOTHING)

    def says_something(self) -> bool:
        return (
            (self.content is not UNSET and bytes(self.content) not in _NOTHING)
            or (self.tool_calls is not UNSET and bytes(self.tool_calls) not in _NOTHING)
            or (self.reasoning_content is not UNSET and bytes(self.reasoning_content) not in _NOTHING)
            or (self.reasoning is not UNSET and bytes(self.reasoning) not in _NOTHING)
            or (self.refusal is not UNSET and bytes(self.refusal) not in _NOTHING)
            or (self.function_call is not UNSET and bytes(self.function_call) not in _NOTHING)
            or (self.reasoning_details is not UNSET and bytes(self.reasoning_details) not in _NOTHING)
            or (self.audio is not UNSET and bytes(self.audio) not in _NOTHING)
        )


class _Choice(Struct, gc=False):
    index: int = 0
    finish_reason: str | None = None
    delta: _Delta | None = None
    text: Raw | UnsetType = UNSET


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_chunk = msgspec.json.Decoder(_Chunk)
_members = msgspec.json.Decoder(dict[str, Raw])


class Expectation(Struct, frozen=True):
    """What the caller asked for."""

    choices: int = 1
    usage: bool = False
    """The caller wants to see usage in the stream."""
    secret: str = ""
    """The upstream's key, kept out of error texts."""
    reasons: bool = True
    """Every choice must say why it ended: `[DONE]` alone is no end."""


class FrameReader:
    """Bytes in, items out: `bytes` (whole frames, LF only, without `[DONE]`) and events.

    A failure is kept in `error`, to be raised after the items before it. `ended`: by `[DONE]`, a failure or `finish`.
    """

    def __init__(self, expected: Expectation, progress: Progress, pace: Pace | None = None) -> None:
        """`pace` is told of each piece: one token at least, more by its length."""
        self._expected = expected
        self._progress = progress
        self.pace = pace
        self._decoder = SseDecoder()
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._usage: Usage | None = None
        self.ended = False
        self.error: HeadgateError | None = None

    @property
    def said(self) -> int:
        """How many pieces said something so far: comments, roles and empty pieces are not among them."""
        return self._progress.output_tokens

    def feed(self, data: bytes) -> list[Event | bytes]:
        lone = self._decoder.lone(data)
        if lone is not None and not (self.ended or lone.startswith(b"[DONE]")):
            return self._pass(data, lone)
        try:
            events = self._decoder.feed(data)
        except EventTooLarge as error:
            self._fail(Upstream("the model server sent an event that is too large", code="upstream_bad_answer"), error)
            return []
        return self._read(events)

    def finish(self) -> list[Event | bytes]:
        """The body has ended. Without `[DONE]` the answer is complete only if every choice said that it is."""
        if self.ended:
            return []
        items = self._read(self._decoder.finish(), last=True)
        if not self.ended:
            if self._finished == set(range(self._expected.choices)) and self._seen == self._finished:
                items += self._end()
            else:
                self._fail(cut_short(), None)
        return items

    def _pass(self, frame: bytes, data: bytes) -> list[Event | bytes]:
        """A read that is one event passes as it came, unless something has to be cut out of it."""
        items: list[Event | bytes] = []
        try:
            shown = self._frame(data, b"", items)
        except HeadgateError as error:
            self._fail(error, error.__cause__)
            return items
        if shown is not None:
            items.insert(0, frame if shown is data else b"data: %b\n\n" % shown)
        return items

    def _read(self, events: list[SseEvent], *, last: bool = False) -> list[Event | bytes]:
        frames: list[bytes] = []
        items: list[Event | bytes] = []
        for event in events:
            if self.ended:
                break
            if event.data.startswith(b"[DONE]"):
                items += self._done()
                break
            try:
                frame = self._frame(event.data, event.event, items)
            except HeadgateError as error:
                if not last or error.code != "upstream_bad_answer":  # at the very end it may be a piece of an event
                    self._fail(error, error.__cause__)
                break
            if frame is not None:
                frames.append(b"data: %b\n\n" % frame)
        if frames:
            items.insert(0, frames[0] if len(frames) == 1 else b"".join(frames))
        return items

    def _frame(self, data: bytes, name: bytes, items: list[Event | bytes]) -> bytes | None:
        """Looks into one frame: its events are added to `items`, and what the caller shall see of it is returned."""
        try:
            if not data.isascii():
                data.decode()
            chunk = look_into(_chunk, data)
        except Undecodable as error:
            raise Upstream("the model server sent an event that is not JSON", code="upstream_bad_answer") from error
        told, used = given(chunk.error), given(chunk.usage)
        if told is not None or name == b"error":
            raise error_in(told if told is not None else Raw(data), self._expected.secret)
        choices = chunk.choices
        if choices:
            for choice in choices:
                self._look_at(choice, items)
        elif choices is None and used is None:
            raise Upstream("the model server sent an event that is no chunk", code="upstream_bad_answer")
        if used is not None:
            self._usage = read_usage(used, self._progress.input_tokens, self._counted) or self._usage
        if b"\n" in data:
            data = data.replace(b"\n", b" ")  # between JSON's tokens only: inside a string it would not have parsed
        if self._expected.usage or chunk.usage is UNSET:
            return data
        return None if not choices and used is not None else _without_usage(data)

    def _counted(self) -> int:
        return self._progress.output_tokens

    def _look_at(self, choice: _Choice, items: list[Event | bytes]) -> None:
        index = choice.index
        self._seen.add(index)
        delta = choice.delta
        if (delta is not None and delta.says_something()) or (
            choice.text is not UNSET and bytes(choice.text) not in _NOTHING
        ):
            self._progress.output_tokens += 1
            if self.pace is not None:
                self.pace.tokens += _weight(choice)
        if choice.finish_reason and index not in self._finished:
            self._finished.add(index)
            items.append(Finish(_REASONS.get(choice.finish_reason, "stop"), index))

    def _done(self) -> list[Event | bytes]:
        if not self._seen:
            self._fail(Upstream("the model server's answer holds no result", code="upstream_bad_answer"), None)
            return []
        unfinished = self._seen - self._finished
        if unfinished and self._expected.reasons:
            self._fail(cut_short(), None)  # a proxy may close a broken stream as if it were whole
            return []
        items: list[Event | bytes] = [Finish("stop", index) for index in sorted(unfinished)]
        return items + self._end()

    def _end(self) -> list[Event | bytes]:
        self.ended = True
        progress = self._progress
        if self._usage is None:
            return [Usage(input=progress.input_tokens, output=progress.output_tokens, estimated=True)]
        return [self._usage]

    def _fail(self, error: HeadgateError, cause: BaseException | None) -> None:
        error.__cause__ = cause
        self.error = error
        self.ended = True


def _weight(choice: _Choice) -> float:
    """Tokens in a piece, by its length: servers send several at once."""
    size = choice.delta.size() if choice.delta is not None else 0
    if choice.text is not UNSET:
        size += len(bytes(choice.text))
    return max(1.0, (size - 2) / BYTES_PER_TOKEN)  # without the quotes


def _without_usage(data: bytes) -> bytes:
    # A quote inside a JSON string is escaped, so this text can only be a member of an object.
    data = data.replace(_NULL_USAGE, b"")
    if _USAGE not in data:
        return data
    members = _members.decode(data)
    members.pop("usage", None)
    return msgspec.json.encode(members)


class Relay:
    """The stream of an answer. Ends the exchange when it ends, and at once when it is closed or cancelled."""

    def __init__(self, exchange: Exchange, reader: FrameReader) -> None:
        self._exchange = exchange
        self._reader = reader
        self._items: deque[Event | bytes] = deque()
        exchange.patience.pace = reader.pace

    def __aiter__(self) -> "Relay":
        return self

    async def __anext__(self) -> Event | bytes:
        items, reader = self._items, self._reader
        while not items:
            if reader.ended:
                self._settle()
                if reader.error is not None:
                    raise reader.error
                raise StopAsyncIteration
            known = reader.said
            try:
                data = await self._exchange.__anext__()
            except StopAsyncIteration:
                items.extend(reader.finish())
                continue
            items.extend(reader.feed(data))
            if reader.said != known:
                self._exchange.progress()  # comments and empty pieces keep a connection alive, not an answer
        return items.popleft()

    def _settle(self) -> None:
        if self._reader.error is None:
            self._exchange.drain()
        else:
            self._exchange.abort()

    async def aclose(self) -> None:
        if self._exchange.open:
            if self._reader.ended:
                self._settle()
            else:
                self._exchange.abort()
