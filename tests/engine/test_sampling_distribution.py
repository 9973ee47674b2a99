"""Draws follow the exact filtered distribution: G-tests against filters written in plain Python, in float64."""

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from headgate.engine.plan import SampleSpec, SamplingParams
from headgate.engine.sampling.sampler import sample
from tests.engine.filters import border, exact, g_statistic

CHANCE = 1e-6
"""Of a false alarm of the whole grid, which Bonferroni's rule shares among the settings."""
SIZE = 40
LOGITS = (np.random.default_rng(11).standard_normal(SIZE) * 2).astype(np.float32)
MASK = frozenset(range(1, SIZE, 3))
CONTEXTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "penalties": {"presence_penalty": 0.8, "frequency_penalty": 0.4, "repetition_penalty": 1.4},
    "bias": {"logit_bias": {0: 2.0, 4: 3.0, 7: -100.0}},
    "min tokens": {"min_tokens": 2**40, "stop_ids": (int(LOGITS.argmax()),)},
}
GRID = list(product((0.5, 1.7), (0, 7), (1.0, 0.8), (0.0, 0.05), CONTEXTS, (False, True)))
SLICE = [
    (1.7, 7, 0.8, 0.05, "penalties", True),
    (1.0, 0, 0.8, 0.0, "bias", False),
    (1.7, 0, 1.0, 0.0, "nothing", False),
]
Setting = tuple[float, int, float, float, str, bool]


def check(setting: Setting, draws: int, rows: int) -> None:
    temperature, top_k, top_p, min_p, context, masked = setting
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    params = replace(params, seed=hash(setting[:4]), **CONTEXTS[context])
    specs = tuple(SampleSpec(params, choice, 0, ((3, 1), (9, 4)), (3, 20)) for choice in range(rows))
    bits = np.packbits([token in MASK for token in range(SIZE)], bitorder="little").tobytes()
    masks = ((bits,) if masked else None,) * rows
    logits = np.stack([LOGITS] * rows)
    counts: Counter[int] = Counter()
    for position in range(draws // rows):
        moved = tuple(replace(spec, position=position) for spec in specs)
        counts.update(tokens[0] for tokens in sample(logits, moved, masks).tokens)
    expected = exact(LOGITS.tolist(), specs[0], MASK if masked else None)
    statistic, freedom = g_statistic(counts, expected)
    assert statistic < border(freedom, CHANCE / len(GRID)), (setting, statistic, freedom)


@pytest.mark.parametrize("setting", SLICE, ids=str)
def test_draws_follow_the_exact_distribution(setting: Setting) -> None:
    check(setting, draws=20_000, rows=100)
    check(setting, draws=3_000, rows=1)


@pytest.mark.prove
@pytest.mark.parametrize("setting", GRID, ids=str)
def test_a_hundred_thousand_draws_follow_it_in_every_setting(setting: Setting) -> None:
    check(setting, draws=100_000, rows=100)


@pytest.mark.prove
@pytest.mark.parametrize("setting", SLICE, ids=str)
def test_a_hundred_thousand_single_draws_follow_it(setting: Setting) -> None:
    check(setting, draws=100_000, rows=1)


def test_the_test_finds_a_distribution_that_is_a_little_off() -> None:
    expected = exact(LOGITS.tolist(), SampleSpec(SamplingParams()))
    other = exact(LOGITS.tolist(), SampleSpec(SamplingParams(temperature=1.05)))
    counts = Counter(dict(enumerate(round(share * 100_000) for share in other)))
    statistic, freedom = g_statistic(counts, expected)
    assert statistic > border(freedom, CHANCE / len(GRID))
