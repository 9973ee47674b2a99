"""`continue`: a model that was given the beginning goes on from there. Its answer is appended as it comes."""

from msgspec import Raw

from headgate.core.call import Call
from headgate.core.events import Finish, Reasoning, Text
from headgate.core.request import ChatRequest, CompletionRequest, prompts
from headgate.core.usage import Usage
from headgate.pipeline.rescue.frames import Piece, Refusal, Role, shifted
from headgate.pipeline.rescue.replay import Diverged
from headgate.pipeline.rescue.sent import Sent

REPEAT_CHARS = 8
"""A beginning of this length that comes again is a server's repetition, not the model's words."""


def choices(call: Call) -> int:
    """How many answers the call asks for."""
    body = call.body
    if isinstance(body, ChatRequest):
        return body.n or 1
    if isinstance(body, CompletionRequest):
        return (body.n or 1) * len(prompts(body.prompt))
    return 1


def logprobs_wanted(call: Call) -> bool:
    body = call.body
    if isinstance(body, ChatRequest):
        return bool(body.logprobs)
    return isinstance(body, CompletionRequest) and body.logprobs is not None


def text_to_continue(call: Call, sent: Sent) -> str | None:
    """The beginning that a model can be given; None where it would not go on as the first one did.

    That is plain text of one choice. Reasoning would begin anew, a grammar too, and a tool call cannot be begun.
    """
    said = sent.said()
    text = said.get((0, "text", 0))
    if not text or len(said) > 1 or sent.calls or sent.finished or choices(call) > 1 or logprobs_wanted(call):
        return None
    body = call.body
    if isinstance(body, ChatRequest):
        return None if body.formed else text
    return text if isinstance(body, CompletionRequest) and not body.formed else None


class CarryOn:
    """A `Follower`. Some servers say the beginning again before they go on: that is cut off."""

    def __init__(self, text: str, tokens: int) -> None:
        """`text` is what was sent, in so many tokens."""
        self._text = text
        self._tokens = tokens
        self._looking = len(text) >= REPEAT_CHARS and not _made_of_one_piece(text)
        self._at = 0
        """How much of it came again, so far."""
        self._speaking = False

    @property
    def joined(self) -> bool:
        return True

    def take(self, piece: Piece) -> list[Piece]:
        if piece.index != 0:
            raise Diverged("the other answer has several choices")
        if isinstance(piece, Role):
            return []
        if isinstance(piece, Reasoning | Refusal) and not self._speaking:
            raise Diverged("the other answer does not go on with text")
        if isinstance(piece, Text) and self._looking:
            return self._look(piece)
        if isinstance(piece, Finish) and self._at >= REPEAT_CHARS:
            raise Diverged("the other answer began anew and ended before it came so far")
        self._speaking = True
        held, self._at, self._looking = self._text[: self._at], 0, False
        return [Text(held), piece] if held else [piece]

    def end(self) -> None:
        if self._at:
            raise Diverged("the other answer began anew and ended before it came so far")

    def usage(self, usage: Usage) -> Usage:
        """The first prompt's tokens, and those of the whole answer: the beginning was read as prompt."""
        moved = min(self._tokens, usage.input)
        left = usage.input - moved
        cached, written = min(usage.cached, left), min(usage.cache_write, left)
        return Usage(left, cached, written, usage.output + moved, usage.reasoning, usage.estimated)

    def usage_json(self, usage: Raw) -> bytes:
        return shifted(usage, self._tokens)

    def _look(self, piece: Text) -> list[Piece]:
        at, missing = self._at, len(self._text) - self._at
        again = piece.text[:missing]
        if self._text.startswith(again, at):
            if len(again) < missing:
                self._at += len(again)
                return []
            rest = piece.text[missing:]
            self._at, self._looking, self._speaking = 0, False, bool(rest)
            return [Text(rest)] if rest else []
        self._at, self._looking, self._speaking = 0, False, True
        return [Text(self._text[:at] + piece.text)] if at else [piece]


def _made_of_one_piece(text: str) -> bool:
    """`ha ha ha `: then what comes may be the same again, rightly."""
    return text in (text + text)[1:-1]
