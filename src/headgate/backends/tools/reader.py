"""Cuts one answer into text and calls, as it comes. What never becomes a call is text: nothing is lost.

The name of a call is known before its arguments are complete, so the arguments are passed on as they come, to the
letter. A family's reader says where a call may begin, and what stands between its parts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection

from msgspec import Struct

from headgate.backends.tools.json_call import MAX_HEAD_CHARS, Brackets, Head, read_head, read_tail, read_whole


class CallStart(Struct, frozen=True):
    name: str


class CallArguments(Struct, frozen=True):
    text: str


SPACE = " \t\r\n"
Piece = str | CallStart | CallArguments
State = Callable[[list[Piece]], bool]
"""Reads from the buffer, adds pieces, and returns whether another state can go on with what is left."""


class Reader(ABC):
    """`names` are the tools that were offered: a call of another stays text."""

    trigger: str
    """What begins a call, wherever it stands."""

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        self.calls = 0
        self._names = names
        self._parallel = parallel
        self._state: State = self._text
        self._buffer = ""
        self._prefix = ""
        """Letters before the buffer that belong to a call; where none follows, they are text."""
        self._brackets = Brackets()
        self._scanned = 0
        self._ended: State = self._tail
        """What follows the arguments."""

    @property
    def done(self) -> bool:
        """One call is complete and no second is wanted."""
        return self.calls > 0 and not self._parallel and not self.cut

    @property
    def cut(self) -> bool:
        """The arguments of the latest call are not complete."""
        return self._state == self._arguments

    def feed(self, text: str) -> list[Piece]:
        """The pieces that are certain now, however the text was cut."""
        self._buffer += text
        pieces: list[Piece] = []
        while not self.done and self._state(pieces):
            pass
        return joined(pieces)

    def flush(self) -> list[Piece]:
        """The end of the answer: what was undecided is text, a cut call stays cut."""
        rest = self._prefix + self._buffer
        self._buffer = self._prefix = ""
        undecided = self._state in {self._text, self._head, self._whole} or self._undecided()
        return [rest] if rest and undecided and not self.done else []

    @property
    def _front(self) -> str:
        """As much of the buffer as may decide what it is."""
        return self._buffer[:MAX_HEAD_CHARS]

    @property
    def _full(self) -> bool:
        """There is no more to come that may decide it."""
        return len(self._buffer) >= MAX_HEAD_CHARS

    def _undecided(self) -> bool:
        """Whether the family's own state holds what may be text."""
        return False

    # The states: text, then the head of a call, then its arguments or all of it at once, then the family's own.

    def _text(self, pieces: list[Piece]) -> bool:
        before, found, after = self._buffer.partition(self.trigger)
        if not found:
            shown = len(before) - _beginning(before, self.trigger)
            pieces.append(before[:shown])
            self._buffer = before[shown:]
            return False
        pieces.append(before)
        self._buffer, self._prefix = after, self.trigger
        self._state = self._begun
        return True

    def _space(self, pieces: list[Piece]) -> bool:
        """Behind a call: space there is no text, but stands between calls."""
        self._buffer = self._buffer.lstrip(SPACE)
        if not self._buffer:
            return False
        self._state = self._text
        return True

    @abstractmethod
    def _begun(self, pieces: list[Piece]) -> bool:
        """After the trigger."""

    @abstractmethod
    def _after(self, pieces: list[Piece]) -> bool:
        """After the arguments and what belongs to them."""

    def _head(self, pieces: list[Piece]) -> bool:
        """The object that is a call."""
        head = read_head(self._front, self._names)
        match head:
            case Head():
                return self._start(pieces, head.name, head.at)
            case "whole":
                self._brackets, self._scanned = Brackets(), 0
                self._state = self._whole
                return True
            case "more" if not self._full:
                return False
            case _:
                return self._no_call(pieces)

    def _start(self, pieces: list[Piece], name: str, at: int) -> bool:
        pieces.append(CallStart(name))
        self._buffer, self._prefix = self._buffer[at:], ""
        self._brackets = Brackets()
        self._ended = self._tail
        self._state = self._arguments
        self.calls += 1
        return True

    def _arguments(self, pieces: list[Piece]) -> bool:
        end = self._brackets.end(self._buffer)
        pieces.append(CallArguments(self._buffer if end is None else self._buffer[:end]))
        self._buffer = "" if end is None else self._buffer[end:]
        if end is None:
            return False
        self._state = self._ended
        return True

    def _tail(self, pieces: list[Piece]) -> bool:
        """Drops what ends the object; where it does not end well, what follows is text."""
        end = read_tail(self._front)
        if end == "more" and not self._full:
            return False
        self._buffer = self._buffer[end:] if isinstance(end, int) else self._buffer
        self._state = self._after
        return True

    def _whole(self, pieces: list[Piece]) -> bool:
        """An object that must be read as a whole to know what it is."""
        part = self._front
        end = self._brackets.end(part, self._scanned)
        self._scanned = len(part)
        if end is None and not self._full:
            return False
        call = None if end is None else read_whole(part[:end], self._names)
        if call is None or end is None:
            return self._no_call(pieces)
        pieces += [CallStart(call.name), CallArguments(call.arguments)]
        self._buffer, self._prefix = self._buffer[end:], ""
        self._state = self._after
        self.calls += 1
        return True

    def _move(self, count: int) -> None:
        """These letters belong to a call, if one follows."""
        self._prefix += self._buffer[:count]
        self._buffer = self._buffer[count:]

    def _to(self, state: State) -> bool:
        self._state = state
        return True

    def _no_call(self, pieces: list[Piece]) -> bool:
        """Shows what was held, and goes on behind it as text."""
        pieces.append(self._prefix)
        self._prefix = ""
        self._state = self._text
        return True


def joined(pieces: list[Piece]) -> list[Piece]:
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


def _beginning(text: str, marker: str) -> int:
    """How many characters at the end of `text` are the beginning of `marker`."""
    return next((size for size in range(len(marker) - 1, 0, -1) if text.endswith(marker[:size])), 0)
