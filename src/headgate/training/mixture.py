"""Which skills are mixed in which share, and which problems are held out."""

import random
from collections.abc import Iterator
from types import MappingProxyType
from typing import Literal
from zlib import crc32

from headgate.training.example import Checker, Example, Sampler
from headgate.training.skills import arithmetic, classify, copying, quote, schema, talk, tools

Side = Literal["train", "held-out"]

HELD_OUT_ONE_IN = 8

SKILLS: MappingProxyType[str, tuple[Sampler, Checker]] = MappingProxyType(
    {
        "talk": (talk.sample, talk.check),
        "arithmetic": (arithmetic.sample, arithmetic.check),
        "copying": (copying.sample, copying.check),
        "quote": (quote.sample, quote.check),
        "schema": (schema.sample, schema.check),
        "tools": (tools.sample, tools.check),
        "classify": (classify.sample, classify.check),
    }
)

SHARES: MappingProxyType[str, float] = MappingProxyType(
    {"talk": 0.10, "arithmetic": 0.21, "copying": 0.13, "quote": 0.18, "schema": 0.14, "tools": 0.14, "classify": 0.10}
)


def side_of(example: Example) -> Side | None:
    """The side a problem belongs to by a hash of its key; None for closed sets, which are on both."""
    if not example.key:
        return None
    return "held-out" if crc32(example.key.encode()) % HELD_OUT_ONE_IN == 0 else "train"


def draw(skill: str, rng: random.Random, side: Side) -> Example:
    """One example of the skill that may be used on this side."""
    sample = SKILLS[skill][0]
    while True:
        example = sample(rng)
        if side_of(example) in (None, side):
            return example


def held_out(skill: str, seed: int, count: int) -> list[Example]:
    """The same `count` held-out examples for the same seed, each with its own generator."""
    return [draw(skill, random.Random(f"held-out/{skill}/{seed}/{n}"), "held-out") for n in range(count)]


def stream(seed: int) -> Iterator[Example]:
    """Training examples without end, in the shares above; the same ones for the same seed."""
    rng = random.Random(f"train/{seed}")
    names, weights = list(SHARES), list(SHARES.values())
    while True:
        yield draw(rng.choices(names, weights)[0], rng, "train")


def passes(example: Example, text: str) -> bool:
    """True when `text` is a right answer to the example."""
    return SKILLS[example.skill][1](example, text)
