"""Tool calls in the model's text: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, read as the text comes.

The form is that of Hermes and Qwen models, and of the bundled one. The name is known before the arguments are complete,
so the arguments are passed on as they come. What never becomes a call is text: nothing the model wrote is lost.
"""

import json
import re
from collections.abc import Collection

from msgspec import Struct

OPEN, CLOSE = "<tool_call>", "</tool_call>"
MAX_HEAD_CHARS = 2**14
"""How much is held while it is undecided whether it is a call."""

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
_JSON_SPACE = " \t\r\n"


class CallStart(Struct, frozen=True):
    name: str


class CallArguments(Struct, frozen=True):
    text: str


Piece = str | CallStart | CallArguments


class ToolCalls:
    """Cuts one answer into text and calls. `names` are the tools that were offered: a call of another stays text."""

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        self._names = names
        self._parallel = parallel
        self._state = self._text
        self._buffer = ""
        self._depth = 0
        self._quoted = self._escaped = False
        self.calls = 0

    @property
    def done(self) -> bool:
        """One call is complete and no second is wanted."""
        return self.calls > 0 and not self._parallel and self._state == self._text

    @property
    def cut(self) -> bool:
        """The arguments of the latest call are not complete."""
        return self._state == self._arguments

    def feed(self, text: str) -> list[Piece]:
        self._buffer += text
        pieces: list[Piece] = []
        while not self.done and self._state(pieces):
            pass
        return _joined(pieces)

    def flush(self) -> list[Piece]:
        """The end of the answer: what was undecided is text, a cut call stays cut."""
        pieces: list[Piece] = []
        if self._state == self._head:
            pieces.append(OPEN + self._buffer)
        elif self._state == self._text and not self.done and not (self.calls and not self._buffer.strip()):
            pieces.append(self._buffer)
        self._buffer = ""
        return _joined(pieces)

    # Each state reads from the buffer, adds pieces, and returns whether another state can go on with what is left.

    def _text(self, pieces: list[Piece]) -> bool:
        before, found, after = self._buffer.partition(OPEN)
        if not found:
            keep = _beginning(before, OPEN)
            if self.calls and not before[: len(before) - keep].strip():
                keep = len(before)  # space between calls: shown only if text follows
            pieces.append(before[: len(before) - keep])
            self._buffer = before[len(before) - keep :]
            return False
        if not (self.calls and not before.strip()):
            pieces.append(before)
        self._buffer = after
        self._state = self._head
        return True

    def _head(self, pieces: list[Piece]) -> bool:
        match = _HEAD.match(self._buffer)
        name = None if match is None else _string(match[1])
        if match is not None and name is not None and name in self._names:
            pieces.append(CallStart(name))
            self._buffer = self._buffer[match.end() :]
            self._state, self._depth, self._quoted, self._escaped = self._arguments, 0, False, False
            self.calls += 1
            return True
        inside, closed, after = self._buffer.partition(CLOSE)
        if closed:
            pieces.extend(self._whole(inside))
            self._buffer = after
            self._state = self._text
            return True
        if OPEN in self._buffer or len(self._buffer) > MAX_HEAD_CHARS:
            return self._no_call(pieces)
        return False

    def _arguments(self, pieces: list[Piece]) -> bool:
        """Passes on one JSON object, by counting brackets outside of strings."""
        for index, character in enumerate(self._buffer):
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._quoted = False
                continue
            if character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
            elif character == "<":  # no JSON has it here: the call is broken off
                self._depth = 0
            if self._depth <= 0:
                end = index if character == "<" else index + 1
                pieces.append(CallArguments(self._buffer[:end]))
                self._buffer = self._buffer[end:]
                self._state = self._tail
                return True
        pieces.append(CallArguments(self._buffer))
        self._buffer = ""
        return False

    def _tail(self, pieces: list[Piece]) -> bool:
        """Drops what is between the arguments and the end of the call; what is no part of a call ends it too."""
        rest = self._buffer.lstrip(_JSON_SPACE + "}")
        if rest.startswith(CLOSE):
            self._buffer = rest[len(CLOSE) :]
        elif CLOSE.startswith(rest):
            self._buffer = rest
            return False
        else:
            self._buffer = rest
        self._state = self._text
        return True

    def _whole(self, inside: str) -> list[Piece]:
        """A complete call whose keys come in another order or spelling; or the text that it is."""
        try:
            call = json.loads(inside)
        except (ValueError, RecursionError):
            call = None
        if isinstance(call, dict) and call.get("name") in self._names:
            arguments = call.get("arguments", call.get("parameters", {}))
            text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
            self.calls += 1
            return [CallStart(call["name"]), CallArguments(text)]
        return [OPEN + inside + CLOSE]

    def _no_call(self, pieces: list[Piece]) -> bool:
        at = self._buffer.find(OPEN)
        end = at if at >= 0 else len(self._buffer)
        pieces.append(OPEN + self._buffer[:end])
        self._buffer = self._buffer[end:]
        self._state = self._text
        return True


def _string(quoted: str) -> str | None:
    try:
        value = json.loads(quoted)
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def _beginning(text: str, marker: str) -> int:
    """How many characters at the end of `text` are the beginning of `marker`."""
    return next((size for size in range(len(marker) - 1, 0, -1) if text.endswith(marker[:size])), 0)


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Neighbours of a kind as one, and no empty ones."""
    out: list[Piece] = []
    for piece in pieces:
        last = out[-1] if out else None
        if isinstance(piece, str) and isinstance(last, str):
            out[-1] = last + piece
        elif isinstance(piece, CallArguments) and isinstance(last, CallArguments):
            out[-1] = CallArguments(last.text + piece.text)
        elif piece != "" and piece != CallArguments(""):
            out.append(piece)
    return out
