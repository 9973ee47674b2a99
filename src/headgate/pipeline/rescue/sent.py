"""What the caller has of an answer.

While all goes well only references to the items are kept. They are read when too much has come together, or when the
stream breaks: an undisturbed stream costs next to nothing, a long one little memory.
"""

from msgspec import Struct

from headgate.core.events import Event, Finish, Reasoning, Text, ToolDelta
from headgate.core.usage import Usage
from headgate.pipeline.rescue.frames import Frame, Piece, Refusal, Role, Template, Unreadable, plain, read

KEPT_BYTES_MAX = 16 * 1024
"""Items are kept as they are up to this size."""
EVENT_BYTES = 128
"""What an event is taken for: it is an object with a few words of text."""
CHARS_MAX = 2**20
"""An answer with more text than this can no longer be rescued: its error stands."""

Key = tuple[int, str, int]
"""One run of text: the choice, what is said, and the position of a tool call."""


class Called(Struct):
    """A tool call whose beginning the caller has."""

    id: str | None = None
    name: str | None = None


class Sent:
    """Grows by `add`; the rest is to be read after `fold`."""

    def __init__(self, include_usage: bool) -> None:
        self._include_usage = include_usage
        self._kept: list[Event | bytes] = []
        self._room = KEPT_BYTES_MAX
        self._said: dict[Key, list[str]] = {}
        self._chars = 0
        self.calls: dict[tuple[int, int], Called] = {}
        """Tool calls by choice and position."""
        self.roles: set[int] = set()
        """Choices that were begun."""
        self.finished: set[int] = set()
        self.tokens = 0
        """Pieces of text, which stand for tokens where nobody counts them."""
        self.usage = False
        """The caller was told what the answer used."""
        self.raw = False
        """It was sent as frames, not as events."""
        self.template: Template | None = None
        """There where `raw`, unless nothing was said yet."""
        self._named = False
        """The template knows how this server calls reasoning."""
        self.lost = False
        """Too long, or not to be read: nothing can be joined to it."""

    def add(self, item: Event | bytes) -> None:
        """Another item was sent."""
        self._kept.append(item)
        self._room -= len(item) if type(item) is bytes else EVENT_BYTES
        if self._room < 0:
            self.fold()

    def fold(self) -> None:
        """Reads what was kept."""
        kept, self._kept, self._room = self._kept, [], KEPT_BYTES_MAX
        if self.lost:
            return
        fresh: dict[Key, list[str]] = {}
        try:
            for item in kept:
                found = self._plain(item)
                if found is None:
                    self._take(item, fresh)
                    continue
                index, text = found
                key = (index, "text", 0)
                if key in fresh:
                    fresh[key].append(text)
                else:
                    fresh[key] = [text]
                    self.roles.add(index)
                self.tokens += 1
                self._chars += len(text) + 1
        except Unreadable:
            self.lost = True
        for key, parts in fresh.items():
            self._said.setdefault(key, []).append("".join(parts))
        if self._chars > CHARS_MAX:
            self.lost = True
        if self.lost:
            self._said, self.calls = {}, {}

    def said(self) -> dict[Key, str]:
        """All texts that were sent."""
        return {key: "".join(parts) for key, parts in self._said.items()}

    @property
    def silent(self) -> bool:
        """Nothing was said yet: any other answer goes on from here."""
        return not (self._said or self.calls or self.finished)

    def complete(self, choices: int) -> bool:
        """Every choice has said that it is at its end."""
        return len(self.finished) >= choices

    def _plain(self, item: Event | bytes) -> tuple[int, str] | None:
        if type(item) is Text:
            return item.index, item.text
        return plain(item) if type(item) is bytes and self.template is not None else None

    def _take(self, item: Event | bytes, fresh: dict[Key, list[str]]) -> None:
        if isinstance(item, bytes):
            self.raw = True
            for frame in read(item):
                self._look_like(frame)
                for piece in frame.pieces:
                    self._piece(piece, fresh)
                self.usage = self.usage or frame.usage is not None
        elif isinstance(item, Usage):
            self.usage = self.usage or not self.raw
        elif isinstance(item, Finish):
            self.finished.add(item.index)
        else:
            self._piece(item, fresh)

    def _look_like(self, frame: Frame) -> None:
        """The first frame that says something shows how all look: some servers begin with one that names nothing."""
        named = frame.reasoning_name is not None and not self._named
        if frame.pieces and (self.template is None or named):
            self._named = named
            self.template = Template(frame, self._include_usage, frame.reasoning_name)

    def _piece(self, piece: Piece, fresh: dict[Key, list[str]]) -> None:
        index = piece.index
        if isinstance(piece, Finish):
            self.finished.add(index)
            return
        self.roles.add(index)
        if isinstance(piece, Role):
            return
        self.tokens += 1
        if isinstance(piece, ToolDelta):
            called = self.calls.setdefault((index, piece.position), Called())
            called.id = called.id or piece.id
            called.name = called.name or piece.name
            self._chars += len(piece.id or "") + len(piece.name or "")
        text = text_of(piece)
        self._chars += len(text) + 1
        fresh.setdefault(key_of(piece), []).append(text)


Spoken = Text | Reasoning | Refusal | ToolDelta
"""The pieces that carry text."""


def key_of(piece: Spoken) -> Key:
    """The run of text that a piece belongs to."""
    if isinstance(piece, Text):
        return piece.index, "text", 0
    if isinstance(piece, ToolDelta):
        return piece.index, "arguments", piece.position
    return piece.index, "reasoning" if isinstance(piece, Reasoning) else "refusal", 0


def text_of(piece: Spoken) -> str:
    return piece.arguments if isinstance(piece, ToolDelta) else piece.text
