"""`[TOOL_CALLS][{"name": "f", "arguments": {...}}, ...]`, and `[TOOL_CALLS]f[ARGS]{...}` of the newer models.

The reader knows both, whichever the model's template shows: `f{...}` without `[ARGS]`, one object without the list,
and a `[CALL_ID]` between name and arguments too.
"""

import re
from typing import Literal

from headgate.backends.tools.reader import SPACE, Piece, Reader

_CALL_ID, _ARGS = "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[^\[{]*")
_ID = re.compile(r"\s*\w*\s*")


class Mistral(Reader):
    trigger = "[TOOL_CALLS]"

    def _undecided(self) -> bool:
        return self._state in {self._begun, self._named}

    def _begun(self, pieces: list[Piece]) -> bool:
        front = self._front
        rest = front.lstrip(SPACE)
        if not rest:
            return self._full and self._no_call(pieces)
        self._state = self._head if rest[0] in "[{" else self._named
        if rest[0] == "[":
            self._move(len(front) - len(rest) + 1)
        return True

    def _named(self, pieces: list[Piece]) -> bool:
        """A name as it is, and then its arguments."""
        front = self._front
        found = _NAME.match(front)
        end = 0 if found is None else found.end()
        name = front[:end].strip(SPACE)
        if end == len(front):
            decided = self._full or not any(one.startswith(name) for one in self._names)
            return decided and self._no_call(pieces)
        arguments = _arguments(front, end) if name in self._names else "no"
        if arguments == "more" and not self._full:
            return False
        if not isinstance(arguments, int):
            return self._no_call(pieces)
        self._start(pieces, name, arguments)
        self._ended = self._space
        return True

    def _after(self, pieces: list[Piece]) -> bool:
        """In a list, after one of its calls."""
        front = self._front
        rest = front.lstrip(SPACE)
        if not rest:
            return self._full and self._to(self._text)
        if rest[0] == ",":
            self._move(len(front) - len(rest) + 1)
            return self._to(self._head)
        if rest[0] == "]":
            self._buffer = self._buffer[len(front) - len(rest) + 1 :]
        return self._to(self._space)


def _arguments(text: str, at: int) -> int | Literal["more", "no"]:
    """Where the arguments begin behind a name that ends at `at`."""
    for marker in (_CALL_ID, _ARGS):
        if text.startswith(marker, at):
            at += len(marker)
            found = _ID.match(text, at) if marker == _CALL_ID else None
            at = at if found is None else found.end()
        elif marker.startswith(text[at:]):
            return "more"
    at += len(text) - at - len(text[at:].lstrip(SPACE))
    if at == len(text):
        return "more"
    return at if text[at] == "{" else "no"
