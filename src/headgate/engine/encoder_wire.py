"""What `wire.py` carries between an encoder's client and its process, and what the process reports about itself."""

from operator import add

import msgspec
from msgspec import Struct

from headgate.engine.plan import NOBODY, Share


class Text(Struct, frozen=True, array_like=True):
    """One input: special tokens included."""

    tokens: tuple[int, ...]
    second: int | None = None
    """Where the second segment begins, in a pair that the tokenizer tells apart."""


class Encode(Struct, frozen=True, tag="encode"):
    """One request. Answered by one `Vectors`, when all of its inputs are done."""

    request: int
    texts: tuple[Text, ...]
    share: Share = NOBODY
    """Cached vectors are found by requests of the same salt only."""
    dimensions: int | None = None
    """The first so many numbers of each vector, made one long again."""
    cosines: bool = False
    """Instead of vectors, the likeness of the first text with each of the others."""
    fresh: bool = False
    """Computed anew, whatever is in the cache."""


class Vectors(Struct, frozen=True, array_like=True):
    """The numbers of one request, in the order of its texts: little-endian float32."""

    request: int
    data: bytes


class EncoderStats(Struct, frozen=True, array_like=True):
    """Gauges of now, then totals since the start."""

    waiting: int = 0
    """Texts that wait to be computed."""
    cached: int = 0
    """Vectors in the cache."""
    requests: int = 0
    texts: int = 0
    tokens: int = 0
    """Computed; those found in the cache are not among them."""
    hits: int = 0
    """Texts whose vector was in the cache."""
    steps: int = 0
    forward_s: float = 0.0
    held_s: float = 0.0
    """Waiting for more texts, so as to compute them together."""

    def since(self, before: "EncoderStats") -> "EncoderStats":
        """These gauges, with the totals of a process that ended `before` this one began added."""
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(before)
        return EncoderStats(*mine[:GAUGES], *map(add, mine[GAUGES:], theirs[GAUGES:]))


GAUGES = EncoderStats.__struct_fields__.index("requests")
"""So many of the first fields are gauges of now; all others are totals."""


class Encoded(Struct, frozen=True, tag="encoded"):
    """All requests that one step has completed, and how the encoder stands after it."""

    done: list[Vectors]
    stats: EncoderStats


class EncoderFacts(Struct, frozen=True, kw_only=True):
    """What an encoder is like, fixed when it is loaded."""

    max_length: int
    """Tokens of one text, special ones included."""
    vocabulary: int
    size: int
    """Numbers per text."""
    ranks: bool
    """A cross-encoder: gives pairs of texts a score, and has no vectors."""
    max_waiting: int
