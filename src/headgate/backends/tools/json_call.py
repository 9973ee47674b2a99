"""The JSON in which a call is written, read from the front while its end is still to come.

A reader never looks past what decides, so its answer does not depend on how the text was cut.
"""

import re
from collections.abc import Collection
from typing import Literal

import msgspec
from msgspec import Raw, Struct

MAX_HEAD_CHARS = 2**14
"""How much is held while it is undecided whether it is a call."""

_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*+)("?)', re.DOTALL)
_PLAIN = re.compile(r'["{}\[\]<]')
_QUOTED = re.compile(r'["\\]')
_ARGUMENTS = ("arguments", "parameters")
_BESIDE = ("id", "type")
"""Keys with a string that some models write beside the name; they say nothing that a caller needs."""


class Head(Struct, frozen=True):
    """The name is known, and at `at` the arguments begin."""

    name: str
    at: int


class Call(Struct, frozen=True):
    name: str
    arguments: str


Undecided = Literal["more", "no", "whole"]
"""`more`: what follows decides. `no`: this is no call. `whole`: it may be one, but only its end can tell."""


class Brackets:
    """Finds the end of one JSON object or list in pieces of text, by its brackets outside of strings."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False

    def end(self, text: str, at: int = 0) -> int | None:
        """Where it ends in this piece, or breaks off at a `<`, which no JSON has there. None: it goes on after it."""
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_QUOTED if self._quoted else _PLAIN).search(text, at)
            if found is None:
                return None
            at = found.end()
            match found[0]:
                case "\\":
                    self._escaped = True
                case '"':
                    self._quoted = not self._quoted
                case "{" | "[":
                    self._depth += 1
                case "<":
                    return at - 1
                case _:
                    self._depth -= 1
                    if self._depth <= 0:
                        return at
        return None


def read_head(text: str, names: Collection[str]) -> Head | Undecided:
    """The beginning of `{"name": "f", "arguments": {...`, for the names on offer."""
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        return "no" if at < len(text) else "more"
    at += 1
    name: str | None = None
    while True:
        at = _skip(text, at)
        key, at = _string(text, at, ("name", *_ARGUMENTS, *_BESIDE))
        if key is None:
            return "more" if at >= 0 else "no"
        at = _skip(text, at)
        if text[at : at + 1] != ":":
            return "no" if at < len(text) else "more"
        at = _skip(text, at + 1)
        if at == len(text):
            return "more"
        if key in _ARGUMENTS:
            return "whole" if name is None or text[at] != "{" else Head(name, at)
        value, at = _string(text, at, names if key == "name" else None)
        if value is None:
            return "more" if at >= 0 else "no"
        name = value if key == "name" else name
        at = _skip(text, at)
        if text[at : at + 1] != ",":
            return "more" if at == len(text) else ("whole" if text[at] == "}" else "no")
        at += 1


def read_tail(text: str) -> int | Literal["more", "no"]:
    """Where the call ends whose arguments have ended: behind its bracket."""
    at = 0
    while True:
        at = _skip(text, at)
        if at == len(text):
            return "more"
        if text[at] == "}":
            return at + 1
        if text[at] != ",":
            return "no"
        key, at = _string(text, _skip(text, at + 1), _BESIDE)
        if key is not None:
            at = _skip(text, at)
            if at < len(text) and text[at] != ":":
                return "no"
            key, at = _string(text, _skip(text, at + 1), None)
        if key is None:
            return "more" if at >= 0 else "no"


def read_whole(text: str, names: Collection[str]) -> Call | None:
    """A complete call whose keys come in any order, its arguments to the letter. None where it is no call."""
    try:
        call = msgspec.json.decode(text.encode("utf-8", "surrogatepass"), type=_WholeCall)
        given = bytes(call.arguments) or bytes(call.parameters) or b"{}"
        arguments = given.decode("utf-8")
        if arguments.startswith('"'):
            arguments = msgspec.json.decode(given, type=str)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    arguments = "{}" if arguments == "null" else arguments
    return Call(call.name, arguments) if call.name in names and arguments.lstrip().startswith("{") else None


class _WholeCall(Struct):
    name: str
    arguments: Raw = Raw(b"")
    parameters: Raw = Raw(b"")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def _string(text: str, at: int, wanted: Collection[str] | None) -> tuple[str | None, int]:
    """The JSON string at `at` and where it ends. Without one: None, and -1 where none of the `wanted` can come."""
    found = _STRING.match(text, at)
    if found is None:
        return None, -1 if at < len(text) else at
    if not found[2]:
        begun = text[at + 1 :]
        possible = wanted is None or "\\" in begun or any(one.startswith(begun) for one in wanted)
        return None, at if possible else -1
    try:
        value = msgspec.json.decode(found[0].encode("utf-8", "surrogatepass"), type=str)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None, -1
    return (value, found.end()) if wanted is None or value in wanted else (None, -1)
