"""`replay`: the same call answered again. What the caller has already is checked and left out; the rest is new."""

from typing import Protocol

from msgspec import Raw, structs

from headgate.core.events import Finish, Text, TokenLogprob, ToolDelta
from headgate.core.usage import Usage
from headgate.pipeline.rescue.frames import Piece, Role
from headgate.pipeline.rescue.sent import Sent, Spoken, key_of, text_of


class Diverged(Exception):
    """The other answer does not go on from what was sent: it is of no use."""


class Follower(Protocol):
    """Joins another answer to what was sent."""

    @property
    def joined(self) -> bool:
        """What it has let through may be shown: nothing sent is open any more."""

    def take(self, piece: Piece) -> list[Piece]:
        """What of it is new; the piece itself where all of it is. Raises `Diverged`."""

    def end(self) -> None:
        """The other answer is complete. Raises `Diverged` where that cannot be."""

    def usage(self, usage: Usage) -> Usage:
        """What the caller is told of it."""

    def usage_json(self, usage: Raw) -> bytes: ...


class Replay:
    """A `Follower`. Every run of text must begin with what was sent of it, whatever the pieces it comes in.

    Ids of tool calls may differ: the caller keeps those it has.
    """

    def __init__(self, sent: Sent) -> None:
        self._said = sent.said()
        self._at = dict.fromkeys(self._said, 0)
        self._open = sum(map(len, self._said.values()))
        self._calls = sent.calls
        self._not_called = set(sent.calls)
        self._roles = sent.roles
        self._finished = frozenset(sent.finished)

    @property
    def joined(self) -> bool:
        return not self._open and not self._not_called

    def take(self, piece: Piece) -> list[Piece]:
        if isinstance(piece, Role):
            return [] if piece.index in self._roles else [piece]
        if isinstance(piece, Finish):
            self._check_whole(piece.index)
            return [] if piece.index in self._finished else [piece]
        overlap = self._overlap(piece)
        if piece.index in self._finished and overlap < len(text_of(piece)):
            raise Diverged("a choice that had ended goes on")
        if isinstance(piece, ToolDelta):
            return self._tool(piece, overlap)
        if not overlap:
            return [piece]
        return [_without(piece, overlap)] if overlap < len(piece.text) else []

    def end(self) -> None:
        if not self.joined:
            raise Diverged("the other answer is shorter than what was sent")

    def usage(self, usage: Usage) -> Usage:
        return usage

    def usage_json(self, usage: Raw) -> bytes:
        return bytes(usage)

    def _overlap(self, piece: Spoken) -> int:
        """How many characters of it were sent already; they are checked."""
        key, text = key_of(piece), text_of(piece)
        said, at = self._said.get(key, ""), self._at.get(key, 0)
        overlap = min(len(text), len(said) - at)
        if text[:overlap] != said[at : at + overlap]:
            raise Diverged("the other answer differs from what was sent")
        self._at[key] = at + overlap
        self._open -= overlap
        return overlap

    def _check_whole(self, index: int) -> None:
        open_text = any(key[0] == index and self._at[key] < len(said) for key, said in self._said.items())
        if open_text or any(key[0] == index for key in self._not_called):
            raise Diverged("the other answer is shorter than what was sent")

    def _tool(self, piece: ToolDelta, overlap: int) -> list[Piece]:
        place = piece.index, piece.position
        called = self._calls.get(place)
        if called is None:
            if piece.index in self._finished:
                raise Diverged("a choice that had ended goes on")
            return [piece]
        self._not_called.discard(place)
        if piece.name and called.name and piece.name != called.name:
            raise Diverged("the other answer calls another tool")
        call_id = None if called.id else piece.id
        name = None if called.name else piece.name
        if not overlap and call_id == piece.id and name == piece.name:
            return [piece] if piece.arguments or call_id or name else []
        rest = piece.arguments[overlap:]
        if not (rest or call_id or name):
            return []
        return [ToolDelta(rest, piece.position, call_id, name, piece.index)]


def _without(piece: Spoken, overlap: int) -> Spoken:
    """The piece without its first characters, and without the log probabilities of tokens that begin there."""
    if not isinstance(piece, Text):
        return structs.replace(piece, text=text_of(piece)[overlap:])
    return Text(piece.text[overlap:], piece.index, _from(piece.logprobs, overlap))


def _from(tokens: tuple[TokenLogprob, ...] | None, start: int) -> tuple[TokenLogprob, ...] | None:
    if tokens is None:
        return None
    kept: list[TokenLogprob] = []
    place = 0
    for token in tokens:
        if place >= start:
            kept.append(token)
        place += len(token.token)
    return tuple(kept)
