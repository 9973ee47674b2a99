"""Identifiers: a prefix that says what it names, then time-ordered base-32 text."""

import random

from headgate.core.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: no i, l, o, u
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""The text of each ten bits."""
_SHIFTS = range(120, -1, -10)
"""An id's 130 bits, ten at a time."""


class Ids:
    """Makes ids such as `req_01jd2v...`: 48 bits of milliseconds, then 80 random bits (the layout of a ULID).

    Ids of one process sort as they were made, within a millisecond too: there each is a random step above the last.
    Where the clock goes back, so do they. They are names, never secrets.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._last = 0

    def new(self, prefix: str) -> str:
        now = int(self._clock.now() * 1000)
        if now == self._last >> 80:
            bits = self._last + 1 + self._rng.getrandbits(48)
        else:
            bits = now << 80 | self._rng.getrandbits(80)
        self._last = bits
        text = "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])
        return f"{prefix}_{text}"
