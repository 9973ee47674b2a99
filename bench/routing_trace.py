"""Traces to route: conversations that share a beginning, and single prompts that share nothing.

`conversations` looks like Mooncake's `conversation_trace` (Qin et al., FAST 2025), which is not copied here: 512-token
blocks; every request begins with the same block; prompts of about 12,000 tokens in the mean, log-normal, so that some
are ten times as long; sessions of a few turns, each of which repeats all before it and adds to it; some 40 % of all
blocks were seen before (37 % there); answers of about 340 tokens. New sessions come in bursts: their rate changes
between half and twice its mean, for some ten seconds each. `singles` has the same arrivals and lengths, and no block
twice. `compressed` brings either to the load that is wanted.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

BLOCK_TOKENS = 512
PREAMBLE = 1
"""The block with which every conversation begins."""
FIRST_BLOCKS, FIRST_SIGMA = 11.0, 1.05
"""Of a session's first prompt: the median, and the sigma of its logarithm."""
MORE_BLOCKS, MORE_SIGMA = 5.0, 1.1
"""What a turn adds: the last answer, and what is asked next."""
GO_ON = 0.4
"""The chance of another turn after each."""
PAUSE_S = 40.0
MOST_BLOCKS = 250
ANSWER_TOKENS, ANSWER_SIGMA = 240.0, 0.85


@dataclass(frozen=True, slots=True)
class Request:
    at: float
    """Seconds from the trace's beginning."""
    blocks: tuple[int, ...]
    output_tokens: int
    session: str

    @property
    def prompt_tokens(self) -> int:
        return len(self.blocks) * BLOCK_TOKENS


def _starts(rng: random.Random, rate: float, seconds: float) -> Iterator[float]:
    """Arrivals whose rate is drawn anew every ten seconds or so."""
    now, change, factor = 0.0, 0.0, 1.0
    while now < seconds:
        if now >= change:
            factor = rng.choice((0.5, 0.5, 0.75, 1.0, 1.25, 2.0))  # 1 in the mean
            change = now + rng.expovariate(0.1)
        now += rng.expovariate(rate * factor)
        yield now


def _blocks(rng: random.Random, median: float, sigma: float) -> int:
    return max(1, min(MOST_BLOCKS, round(rng.lognormvariate(0.0, sigma) * median)))


def _answer(rng: random.Random) -> int:
    return max(1, round(rng.lognormvariate(0.0, ANSWER_SIGMA) * ANSWER_TOKENS))


def conversations(seed: int, rate: float, seconds: float) -> list[Request]:
    """`rate` sessions begin per second, for so long."""
    rng = random.Random(seed)
    fresh = count(2)
    requests: list[Request] = []
    for number, at in enumerate(_starts(rng, rate, seconds)):
        blocks = [PREAMBLE, *(next(fresh) for _ in range(_blocks(rng, FIRST_BLOCKS, FIRST_SIGMA)))]
        while True:
            requests.append(Request(at, tuple(blocks), _answer(rng), f"s{number}"))
            if rng.random() >= GO_ON:
                break
            at += 5.0 + rng.expovariate(1 / PAUSE_S)
            blocks += (next(fresh) for _ in range(_blocks(rng, MORE_BLOCKS, MORE_SIGMA)))
    return sorted((request for request in requests if request.at <= seconds), key=lambda request: request.at)


def singles(seed: int, rate: float, seconds: float) -> list[Request]:
    """Prompts that have nothing in common; each is its own session."""
    rng = random.Random(seed)
    fresh = count(1)
    return [
        Request(at, tuple(next(fresh) for _ in range(_blocks(rng, 14.0, FIRST_SIGMA))), _answer(rng), f"s{number}")
        for number, at in enumerate(_starts(rng, rate, seconds))
    ]


def compressed(requests: list[Request], tokens_per_s: float) -> list[Request]:
    """The same requests, faster or slower, so that so many prompt tokens come per second, cached or not."""
    factor = sum(request.prompt_tokens for request in requests) / tokens_per_s / requests[-1].at
    return [replace(request, at=request.at * factor) for request in requests]


def reuse(requests: list[Request]) -> float:
    """The part of all blocks that an endless cache would have."""
    seen: set[int] = set()
    again = total = 0
    for request in requests:
        total += len(request.blocks)
        again += sum(block in seen for block in request.blocks)
        seen.update(request.blocks)
    return again / max(1, total)
