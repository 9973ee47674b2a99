"""Requests for `batching.py`: lengths as answers have them, conversations, and streams that are disturbed."""

import random
from itertools import pairwise

from msgspec import Struct, structs

PROMPT_MEAN, ANSWER_MEAN, SIGMA = 100, 100, 1.0
"""Tokens. Log-normal lengths: with this spread the median is 0.6 of the mean, one in a hundred six times the mean."""
TOKENS = 2000
"""Ids are drawn below this; every model here has more."""


class Asked(Struct, frozen=True):
    """One request: seconds after the start, its prompt, and how many tokens it wants."""

    at: float
    prompt: tuple[int, ...]
    tokens: int

    def asking(self, tokens: int) -> "Asked":
        return structs.replace(self, tokens=tokens)


class Told(Struct):
    """What came of one: when it was asked, its tokens, and when each of them came."""

    asked: float
    tokens: list[int] = []
    times: list[float] = []

    def gaps(self) -> list[float]:
        return [later - sooner for sooner, later in pairwise(self.times)]


class Talk:
    """One conversation: every turn says all that was said before, and something new."""

    def __init__(self, system: tuple[int, ...]) -> None:
        self._said = system

    def next(self, rng: random.Random) -> Asked:
        self._said += text(length(rng, 30, 120), rng)
        return Asked(0.0, self._said, 8 + length(rng, 40, 80))

    def heard(self, answer: list[int]) -> None:
        self._said += tuple(answer)


def text(size: int, rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(3, TOKENS) for _ in range(size))


def length(rng: random.Random, mean: float, most: int) -> int:
    """Log-normal, between 4 and `most`."""
    drawn = rng.lognormvariate(0.0, SIGMA) * mean / 2.718281828 ** (SIGMA**2 / 2)
    return int(min(most, max(4, drawn)))


def mixed(count: int, seed: int) -> list[Asked]:
    """All there at once, in random order."""
    rng = random.Random(seed)
    return [Asked(0.0, text(length(rng, PROMPT_MEAN, 800), rng), length(rng, ANSWER_MEAN, 800)) for _ in range(count)]


def conversations(count: int, rng: random.Random) -> list[Talk]:
    """They share a system prompt of 200 tokens."""
    system = text(200, rng)
    return [Talk(system) for _ in range(count)]


def disturbed(seconds: float, seed: int, *, longer: bool) -> tuple[list[Asked], list[Asked]]:
    """Eight streams of a thousand tokens, and meanwhile prompts of 150 tokens every 0.2 s; with `longer`, every fifth
    has 1,500.
    """
    rng = random.Random(seed)
    streams = [Asked(0.0, text(20, rng), 1000) for _ in range(8)]
    others = [
        Asked(0.1 + 0.2 * place, text(1500 if longer and place % 5 == 2 else 150, rng), 4)
        for place in range(int(seconds / 0.2))
    ]
    return streams, others
