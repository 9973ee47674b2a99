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

    Ids of one process sort by the time they were made, to the millisecond. They are names, never secrets.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng

    def new(self, prefix: str) -> str:
        bits = int(self._clock.now() * 1000) << 80 | self._rng.getrandbits(80)
        text = "".join([_PAIRS[bits >> shift & 1023] for shift in _SHIFTS])
        return f"{prefix}_{text}"
