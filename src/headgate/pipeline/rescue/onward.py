"""Another attempt's items, joined to what was sent and written in the form of the first: frames, or events."""

from operator import is_

from headgate.core.call import Call
from headgate.core.events import Event, Finish, Reasoning, Text, ToolDelta
from headgate.core.usage import Usage
from headgate.pipeline.rescue.carry_on import logprobs_wanted
from headgate.pipeline.rescue.frames import Frame, Piece, Refusal, Role, Template, Unreadable, read, usage_json
from headgate.pipeline.rescue.replay import Diverged, Follower
from headgate.pipeline.rescue.sent import EVENT_BYTES, Sent, text_of

WAITING_BYTES_MAX = 2**20
"""What is new of one choice waits, so large at most, until all choices have come as far as what was sent."""


class Onward:
    """Feed it the items of another attempt; it gives those that the caller shall get. Both raise `Diverged`."""

    def __init__(self, follower: Follower, sent: Sent, call: Call) -> None:
        """`sent` must be folded."""
        self._follower = follower
        self._raw = sent.raw
        self._template: Template | None = sent.template
        self._roles = set(sent.roles)
        self._include_usage = call.include_usage
        self._show_usage = call.include_usage and not sent.usage
        self._strict = logprobs_wanted(call)
        self._came_raw = False
        self._ended: set[int] = set()
        """Choices whose end came in a frame of the other attempt."""
        self._shown: set[int] = set()
        """Those of them whose end was let through."""
        self._waiting: list[Event | bytes] = []
        self._room = WAITING_BYTES_MAX
        self._joined = False

    def feed(self, item: Event | bytes) -> list[Event | bytes]:
        out = self._bytes(item) if isinstance(item, bytes) else self._event(item)
        if self._joined:
            return out
        self._waiting += out
        if self._follower.joined:
            self._joined = True
            out, self._waiting = self._waiting, []
            return out
        self._room -= sum(map(_size, out))
        if self._room < 0:
            raise Diverged("one choice of the other answer is far ahead of what was sent of another")
        return []

    def end(self) -> None:
        """The other attempt is complete."""
        self._follower.end()

    def _bytes(self, item: bytes) -> list[Event | bytes]:
        self._came_raw = True
        if self._strict and not self._raw:
            raise Diverged("the other answer has its log probabilities in another form")
        try:
            frames = read(item)
        except Unreadable as error:
            raise Diverged(str(error)) from error
        out: list[Event | bytes] = []
        for frame in frames:
            self._frame(frame, out)
        return out

    def _frame(self, frame: Frame, out: list[Event | bytes]) -> None:
        passed: list[Piece] = []
        for piece in frame.pieces:
            new = self._follower.take(piece)
            passed += new
            if isinstance(piece, Finish):
                self._ended.add(piece.index)
                if new:
                    self._shown.add(piece.index)
        said = frame.pieces if len(passed) == len(frame.pieces) else _but_roles(frame.pieces)
        whole = bool(said) and len(said) == len(passed) and all(map(is_, said, passed))
        if not self._raw:
            out += _events(passed)
            return
        template = self._template
        if template is None:  # no frame that was sent said whose it is
            if not frame.pieces:
                return
            template = self._template = Template(frame, self._include_usage)
        usage = None if frame.usage is None else self._follower.usage_json(frame.usage)
        if whole:
            self._roles.update(piece.index for piece in passed)
            out.append(template.renamed(frame, usage, begun=len(said) < len(frame.pieces)))
            return
        out += self._rendered(template, passed)
        if usage is not None and self._show_usage:
            out.append(template.renamed(frame, usage) if frame.empty else template.told(usage))

    def _event(self, event: Event) -> list[Event | bytes]:
        if isinstance(event, Usage):
            return self._used(self._follower.usage(event))
        if isinstance(event, Finish) and event.index in self._ended:
            return [event] if self._raw and event.index in self._shown else []
        if self._strict and self._raw and isinstance(event, Text):
            raise Diverged("the other answer has its log probabilities in another form")
        new = self._follower.take(event)
        if not self._raw:
            return _events(new)
        if self._template is None:
            raise Diverged("what was sent does not show how frames must look")
        return [*self._rendered(self._template, new), *(piece for piece in new if isinstance(piece, Finish))]

    def _used(self, usage: Usage) -> list[Event | bytes]:
        """Frames that came as such told it themselves."""
        if self._template is None or self._came_raw or not self._show_usage:
            return [usage]
        return [self._template.told(usage_json(usage)), usage]

    def _rendered(self, template: Template, pieces: list[Piece]) -> list[Event | bytes]:
        out: list[Event | bytes] = []
        for piece in pieces:
            if piece.index not in self._roles:
                self._roles.add(piece.index)
                if template.chat and not isinstance(piece, Role):
                    out.append(template.render(Role(piece.index)))
            elif isinstance(piece, Role):
                continue
            out.append(template.render(piece))
        return out


def _size(item: Event | bytes) -> int:
    if isinstance(item, bytes):
        return len(item)
    return EVENT_BYTES + (len(text_of(item)) if isinstance(item, Text | Reasoning | ToolDelta) else 0)


def _but_roles(pieces: list[Piece]) -> list[Piece]:
    return [piece for piece in pieces if not isinstance(piece, Role)]


def _events(pieces: list[Piece]) -> list[Event | bytes]:
    """As the embedded engine would give them. A refusal has no event of its own: it is text."""
    out: list[Event | bytes] = []
    for piece in pieces:
        if isinstance(piece, Refusal):
            out.append(Text(piece.text, piece.index))
        elif not isinstance(piece, Role):
            out.append(piece)
    return out
