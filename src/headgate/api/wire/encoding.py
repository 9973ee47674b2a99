"""What the encoders share: JSON of texts, and log probabilities that JSON can carry."""

from typing import Protocol

import msgspec

from headgate.core.events import Event, TokenLogprob

encode = msgspec.json.encode

LOWEST_LOGPROB = -9999.0
"""OpenAI's number for a token so unlikely that its logarithm is not kept; JSON has no infinity."""

DONE = b"data: [DONE]\n\n"


class Encoder(Protocol):
    """Events in, frames out. One per answer; every frame is whole."""

    def frames(self, event: Event) -> bytes:
        """Nothing to send gives empty bytes."""

    def tail(self, raw: bool) -> bytes:
        """What comes after the last event; `raw` says that the stream came as frames already."""


class Fold(Protocol):
    """Events in, one whole body out."""

    def take(self, event: Event) -> None: ...

    def body(self) -> bytes: ...


def text(value: str) -> bytes:
    """JSON of a text. A lone surrogate, which UTF-8 cannot carry, becomes a question mark."""
    try:
        return encode(value)
    except UnicodeEncodeError:
        return encode(value.encode("utf-8", "replace").decode())


def finite(logprob: float) -> float:
    return max(LOWEST_LOGPROB, logprob)


def tops(token: TokenLogprob) -> dict[str, float]:
    """Alternatives as completions show them; of equal texts the likelier stays."""
    out: dict[str, float] = {}
    for other in token.top:
        out.setdefault(other.token, finite(other.logprob))
    return out
