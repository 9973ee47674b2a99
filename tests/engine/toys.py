"""Models of five tokens, small enough to know the probability of every text."""

from collections.abc import Callable
from itertools import product

import numpy as np

from headgate.engine.plan import Draft, SampleSpec, SamplingParams
from headgate.engine.sampling.sampler import draft, sample
from tests.engine.filters import exact

VOCABULARY = 5
Model = Callable[[tuple[int, ...]], np.ndarray]
"""Logits after a text."""
Guess = Callable[[tuple[int, ...], SampleSpec, int], Draft]
"""A draft of so many tokens after a text."""


def model(seed: int, spread: float = 1.2) -> Model:
    """What follows depends on the last two tokens."""
    table = (np.random.default_rng(seed).standard_normal((6, 6, VOCABULARY)) * spread).astype(np.float32)

    def logits(text: tuple[int, ...]) -> np.ndarray:
        first, second = (-1, -1, *text)[-2:]
        row: np.ndarray = table[first, second]
        return row

    return logits


def contrary(of: Model) -> Model:
    """Likes least what the other likes most."""
    return lambda text: -2 * of(text)


def drawing(by: Model) -> Guess:
    """A draft model, with the distributions it draws from."""

    def guess(text: tuple[int, ...], spec: SampleSpec, length: int) -> Draft:
        tokens: list[int] = []
        weights = []
        for place in range(length):
            at = row_spec(spec, tuple(tokens), place)
            ((token, row),) = draft(by((*text, *tokens))[None], (at,), VOCABULARY)
            tokens.append(token)
            weights.append(row)
        return Draft(tuple(tokens), None if weights[0] is None else tuple(weights))

    return guess


def looked_up(text: tuple[int, ...], spec: SampleSpec, length: int) -> Draft:
    """Something that depends on the text only."""
    return Draft(tuple((sum(text) * 3 + len(text) + at) % VOCABULARY for at in range(length)))


def row_spec(spec: SampleSpec, before: tuple[int, ...], place: int) -> SampleSpec:
    counts = dict(spec.output_counts)
    for token in before:
        counts[token] = counts.get(token, 0) + 1
    return SampleSpec(spec.params, spec.choice, spec.position + place, tuple(counts.items()), spec.prompt_tokens)


def spec_after(text: tuple[int, ...], params: SamplingParams, choice: int = 0) -> SampleSpec:
    counts = {token: text.count(token) for token in text}
    return SampleSpec(params, choice, len(text), tuple(counts.items()))


def generate(
    of: Model, params: SamplingParams, length: int, guess: Guess | None = None, *, drafts: int = 3, choice: int = 0
) -> tuple[tuple[int, ...], int]:
    """A text of `length` tokens, and in how many steps it came."""
    text: tuple[int, ...] = ()
    steps = 0
    while len(text) < length:
        spec = spec_after(text, params, choice)
        wanted = min(drafts, length - len(text) - 1)
        if guess is not None and wanted > 0:
            made = guess(text, spec, wanted)
            spec = SampleSpec(spec.params, choice, spec.position, spec.output_counts, spec.prompt_tokens, made)
            rows = np.stack([of((*text, *made.tokens[:at])) for at in range(wanted + 1)])
        else:
            rows = of(text)[None]
        (tokens,) = sample(rows, (spec,), (None,)).tokens
        text += tokens
        steps += 1
    return text, steps


def chances(of: Model, params: SamplingParams, length: int) -> dict[tuple[int, ...], float]:
    """The exact probability of every text, token by token, from the slow filters."""
    out: dict[tuple[int, ...], float] = {}
    for text in product(range(VOCABULARY), repeat=length):
        chance = 1.0
        for at in range(length):
            if chance:
                chance *= exact(of(text[:at]).tolist(), spec_after(text[:at], params))[text[at]]
        out[text] = chance
    return out
