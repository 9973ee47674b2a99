"""Identifiers: a prefix that says what it names, then time-ordered base-32 text."""

import random

from headgate.core.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: no i, l, o, u


def _base32(value: int, length: int) -> str:
    out = []
    for _ in range(length):
        out.append(_ALPHABET[value & 31])
        value >>= 5
    return "".join(reversed(out))


class Ids:
    """Makes ids such as `req_01jd2v...`: 48 bits of milliseconds, then 80 random bits (the layout of a ULID).

    Ids of one process sort by the time they were made, to the millisecond. They are names, never secrets.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng

    def new(self, prefix: str) -> str:
        milliseconds = int(self._clock.now() * 1000)
        return f"{prefix}_{_base32(milliseconds, 10)}{_base32(self._rng.getrandbits(80), 16)}"
