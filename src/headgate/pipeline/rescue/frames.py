"""Frames of OpenAI's dialect as pieces of an answer, and back, under the names of the answer that was begun.

Chat chunks and `text_completion` frames. Pure: bytes in, values out.
"""

from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from headgate.core.events import Finish, FinishReason, Reasoning, Text, ToolDelta
from headgate.core.usage import Usage


class Refusal(Struct, frozen=True):
    """A piece of the model's refusal, where a server keeps it apart from the text."""

    text: str
    index: int = 0


class Role(Struct, frozen=True):
    """A choice has begun."""

    index: int = 0


Piece = Text | Reasoning | Refusal | ToolDelta | Role | Finish


class Unreadable(ValueError):
    """Bytes that are no frames of this dialect, or say something that cannot be told apart from a cut."""


class Frame(Struct, frozen=True):
    """One frame: its JSON, and what it says."""

    data: bytes
    pieces: list[Piece]
    usage: Raw | None
    empty: bool
    """It has no choices."""
    reasoning_name: str | None = None


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Tool(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct, gc=False):
    content: str | None = None
    role: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Tool] | None = None
    function_call: Raw | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET


class _Choice(Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET


_chunk = msgspec.json.Decoder(_Chunk)
_members = msgspec.json.Decoder(dict[str, Raw])
_object = msgspec.json.Decoder(dict[str, Any])
_PLAIN = (None,) * 6 + (UNSET,) * 2
_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
}
_NAMES = ("id", "object", "created", "model", "system_fingerprint", "service_tier")
"""What is the same on all frames of an answer."""


def read(item: bytes) -> list[Frame]:
    """The frames of an item. Raises `Unreadable`."""
    return [_frame(data) for data in map(_data, item.split(b"\n\n")) if data]


def plain(item: bytes) -> tuple[int, str] | None:
    """The choice and the text of a lone frame that says nothing else, as most do: quicker than `read`."""
    if not item.startswith(b"data: {") or item.find(b"\n") != len(item) - 2:
        return None
    try:
        chunk = _chunk.decode(item[6:])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    choices = chunk.choices
    if not choices or len(choices) > 1 or not (chunk.usage is UNSET or bytes(chunk.usage) == b"null"):
        return None
    choice = choices[0]
    delta = choice.delta
    if delta is None:
        return (choice.index, choice.text) if choice.text and not choice.finish_reason else None
    if delta.content and (
        choice.finish_reason, choice.text, delta.reasoning_content, delta.reasoning, delta.refusal,
        delta.tool_calls, delta.function_call, delta.audio,
    ) == _PLAIN:  # fmt: skip
        return choice.index, delta.content
    return None


def _data(part: bytes) -> bytes:
    if part.startswith(b"data: ") and b"\n" not in part:
        return part[6:]
    lines = [line[5:].removeprefix(b" ") for line in part.split(b"\n") if line.startswith(b"data:")]
    return b" ".join(lines)


def _frame(data: bytes) -> Frame:
    try:
        chunk = _chunk.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable("a frame is not of OpenAI's dialect") from error
    usage = None if chunk.usage is UNSET or bytes(chunk.usage) == b"null" else chunk.usage
    pieces: list[Piece] = []
    name = None
    for choice in chunk.choices or ():
        index, delta = choice.index, choice.delta
        if choice.text:
            pieces.append(Text(choice.text, index))
        if delta is not None:
            name = "reasoning" if delta.reasoning and not delta.reasoning_content else name
            _delta(delta, index, pieces)
        if choice.finish_reason:
            pieces.append(Finish(_REASONS.get(choice.finish_reason, "stop"), index))
    return Frame(data, pieces, usage, not chunk.choices, name)


def _delta(delta: _Delta, index: int, pieces: list[Piece]) -> None:
    for other in (delta.function_call, delta.audio):
        if other is not UNSET and bytes(other) != b"null":
            raise Unreadable("a frame carries what cannot be joined to another answer")
    if delta.role:
        pieces.append(Role(index))
    if thought := delta.reasoning_content or delta.reasoning:
        pieces.append(Reasoning(thought, index))
    if delta.content:
        pieces.append(Text(delta.content, index))
    if delta.refusal:
        pieces.append(Refusal(delta.refusal, index))
    for position, tool in enumerate(delta.tool_calls or ()):
        function = tool.function or _Function()
        place = position if tool.index is None else tool.index
        pieces.append(ToolDelta(function.arguments or "", place, tool.id, function.name, index))


class Template:
    """How the frames of the answer that was begun look."""

    def __init__(self, first: Frame, include_usage: bool, reasoning_name: str | None = None) -> None:
        """`first` is one of that answer's frames. Raises `Unreadable`."""
        try:
            members = _members.decode(first.data)
        except msgspec.MsgspecError as error:
            raise Unreadable("a frame is no JSON object") from error
        self._names = {name: members[name] for name in _NAMES if name in members}
        self.chat = bytes(self._names.get("object", Raw(b""))) != b'"text_completion"'
        self._start = b"data: {" + b"".join(b'"%b":%b,' % (name.encode(), raw) for name, raw in self._names.items())
        self._start += b'"choices":['
        self._end = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._reasoning = (reasoning_name or "reasoning_content").encode()

    def renamed(self, frame: Frame, usage: bytes | None = None, *, begun: bool = False) -> bytes:
        """A frame of another answer under this one's names. `usage` stands in for its own.

        `begun`: without the roles of its choices, which were told before.
        """
        members = _members.decode(frame.data)
        for name in _NAMES:
            if name in self._names:
                members[name] = self._names[name]
            else:
                members.pop(name, None)
        if usage is not None:
            members["usage"] = Raw(usage)
        if begun:
            members["choices"] = Raw(_without_roles(members["choices"]))
        return b"data: %b\n\n" % msgspec.json.encode(members)

    def render(self, piece: Piece) -> bytes:
        """One frame."""
        if isinstance(piece, Finish):
            return self._choice(piece.index, b"" if self.chat else b'""', _json(piece.reason))
        if not self.chat:
            return self._choice(piece.index, _json(piece.text) if isinstance(piece, Text) else b'""', b"null")
        if isinstance(piece, Text):
            said = b'"content":' + _json(piece.text)
        elif isinstance(piece, Reasoning):
            said = b'"%b":%b' % (self._reasoning, _json(piece.text))
        elif isinstance(piece, Refusal):
            said = b'"refusal":' + _json(piece.text)
        elif isinstance(piece, Role):
            said = b'"role":"assistant","content":""'
        else:
            said = b'"tool_calls":[%b]' % msgspec.json.encode(_tool(piece))
        return self._choice(piece.index, said, b"null")

    def told(self, usage: bytes) -> bytes:
        """The frame that tells what the answer has used, after all others."""
        return self._start + b'],"usage":' + usage + b"}\n\n"

    def _choice(self, index: int, said: bytes, reason: bytes) -> bytes:
        said = b'"delta":{%b}' % said if self.chat else b'"text":' + said
        return b"".join(
            (self._start, b'{"index":%d,' % index, said, b',"logprobs":null,"finish_reason":', reason, b"}", self._end)
        )


def _without_roles(choices: Raw) -> bytes:
    found = msgspec.json.decode(choices)
    for choice in found:
        choice["delta"].pop("role", None)
    return msgspec.json.encode(found)


def _tool(piece: ToolDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": piece.arguments}
    tool: dict[str, Any] = {"index": piece.position}
    if piece.id is not None:
        tool |= {"id": piece.id, "type": "function"}
    if piece.name is not None:
        function = {"name": piece.name, **function}
    return {**tool, "function": function}


def _json(text: str) -> bytes:
    try:
        return msgspec.json.encode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 cannot carry
        return msgspec.json.encode(text.encode("utf-8", "replace").decode())


def usage_json(usage: Usage) -> bytes:
    """As OpenAI writes it."""
    return msgspec.json.encode({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })  # fmt: skip


def shifted(usage: Raw, tokens: int) -> bytes:
    """A server's own figures with `tokens` of the prompt counted as answer."""
    try:
        members = _object.decode(usage)
        moved = min(tokens, int(members["prompt_tokens"]))
        members["prompt_tokens"] = int(members["prompt_tokens"]) - moved
        members["completion_tokens"] = int(members["completion_tokens"]) + moved
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return bytes(usage)
    return msgspec.json.encode(members)
