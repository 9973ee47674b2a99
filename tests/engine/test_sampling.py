"""Drawing follows the exact filtered distribution, the filters do what they say, and seeds decide everything."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.plan import SampleSpec, SamplingParams
from headgate.engine.sampling import adjust, distribution, draw, sample, score, uniform

LOGITS = np.log(np.array([0.35, 0.25, 0.15, 0.1, 0.08, 0.05, 0.015, 0.005], dtype=np.float64)).astype(np.float32)


def exact(row: np.ndarray, params: SamplingParams) -> np.ndarray:
    """The filtered distribution, written out slowly and separately."""
    weights = np.exp((row.astype(np.float64) - row.max()) / params.temperature)
    keep = [index for index in range(len(row)) if weights[index] >= params.min_p]
    if 0 < params.top_k < len(keep):
        border = sorted((weights[index] for index in keep), reverse=True)[params.top_k - 1]
        keep = [index for index in keep if weights[index] >= border]
    if params.top_p < 1.0:
        total, held, kept = sum(weights[index] for index in keep), 0.0, []
        for index in sorted(keep, key=lambda one: -weights[one]):
            kept.append(index)
            held += weights[index]
            if held >= params.top_p * total:
                break
        keep = kept
    out = np.zeros(len(row))
    out[keep] = weights[keep]
    total_kept: float = out.sum()
    return np.asarray(out / total_kept)


CASES = {
    "plain": SamplingParams(temperature=1.0),
    "hot": SamplingParams(temperature=1.7),
    "cold": SamplingParams(temperature=0.5),
    "top-k": SamplingParams(temperature=1.0, top_k=3),
    "top-p": SamplingParams(temperature=1.0, top_p=0.8),
    "min-p": SamplingParams(temperature=1.0, min_p=0.2),
    "all of them": SamplingParams(temperature=1.3, top_k=6, top_p=0.9, min_p=0.05),
}


@pytest.mark.parametrize("name", CASES)
def test_draws_follow_the_exact_distribution(name: str) -> None:
    """G-test; the border is the 1e-6 quantile of chi-squared with 7 degrees of freedom, so it never fails by chance."""
    params, draws = CASES[name], 20_000
    expected = exact(LOGITS, params)
    counts: Counter[int] = Counter()
    for position in range(draws):
        ids, weights = distribution(LOGITS, params)
        counts[draw(ids, weights, uniform(5, 0, position))] += 1
    assert set(counts) <= set(np.flatnonzero(expected).tolist())
    statistic = 2 * sum(n * math.log(n / (draws * expected[token])) for token, n in counts.items())
    assert statistic < 40.5


@settings(max_examples=150, deadline=None)
@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=300),
    temperature=st.floats(2e-5, 2),
    top_k=st.integers(0, 50),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
)
def test_the_filters_agree_with_the_slow_way(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    row = np.array(logits, dtype=np.float32)
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ids, weights = distribution(row, params)
    dense = np.zeros(len(row))
    dense[np.arange(len(row)) if ids is None else ids] = weights / weights.sum()
    expected = exact(row, params)
    # Tokens of equal weight at the border of top-p may be swapped: compare as sorted.
    assert np.abs(np.sort(dense) - np.sort(expected)).max() < 1e-6


def test_random_numbers_depend_on_seed_choice_and_position_only() -> None:
    seen = {
        uniform(seed, choice, position) for seed in (-(2**63), 0, 9) for choice in range(3) for position in range(9)
    }
    assert len(seen) == 81
    assert uniform(9, 2, 8) == uniform(9, 2, 8)
    assert all(0 <= value < 1 for value in seen)
    many = [uniform(1, 0, position) for position in range(20_000)]
    assert abs(float(np.mean(many)) - 0.5) < 0.01
    assert abs(float(np.var(many)) - 1 / 12) < 0.002


def test_greedy_takes_the_most_likely_and_company_changes_nothing() -> None:
    rows = np.stack([LOGITS, LOGITS[::-1], np.roll(LOGITS, 3)])
    greedy, random = SampleSpec(SamplingParams(temperature=0.0)), SampleSpec(SamplingParams(seed=4))
    assert sample(rows, (greedy,) * 3).tokens == (0, 7, 3)
    alone = sample(rows[1:2], (random,)).tokens[0]
    assert sample(rows, (greedy, random, greedy)).tokens == (0, alone, 3)


def test_end_tokens_cannot_be_drawn_before_min_tokens() -> None:
    params = SamplingParams(temperature=0.0, stop_ids=(0, 1), min_tokens=2)
    tokens = [sample(LOGITS[None], (SampleSpec(params, 0, position),)).tokens[0] for position in range(3)]
    assert tokens == [2, 2, 0]


def test_bias_and_penalties_are_applied_as_documented() -> None:
    row = np.array([2.0, -1.0, 0.5, 0.0], dtype=np.float32)
    params = SamplingParams(logit_bias={3: 5.0}, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    spec = SampleSpec(params, 0, 3, ((0, 2), (1, 1)), (1, 2))
    expected = [2.0 / 2 - 0.5 - 0.5, -1.0 * 2 - 0.5 - 0.25, 0.5 / 2, 5.0]
    assert adjust(row, spec).tolist() == pytest.approx(expected)
    assert row.tolist() == [2.0, -1.0, 0.5, 0.0]


def test_a_bias_of_a_hundred_forces_and_forbids() -> None:
    forced = SamplingParams(temperature=0.0, logit_bias={6: 100.0})
    assert sample(LOGITS[None], (SampleSpec(forced),)).tokens == (6,)
    forbidden = SamplingParams(logit_bias={token: -100.0 for token in range(8) if token != 7})
    assert all(sample(LOGITS[None], (SampleSpec(forbidden, 0, at),)).tokens == (7,) for at in range(50))


def test_a_mask_allows_nothing_else() -> None:
    mask = bytes([0b10100000])
    drawn = {sample(LOGITS[None], (SampleSpec(SamplingParams(), 0, at, mask=mask),)).tokens[0] for at in range(200)}
    assert drawn == {5, 7}


def test_logprobs_are_of_the_raw_distribution_and_sorted() -> None:
    row = LOGITS * 3 + 2
    exact_logprobs = row - np.log(np.exp(row.astype(np.float64)).sum())
    result = score(row, 4, 3)
    assert result.logprob == pytest.approx(exact_logprobs[4])
    assert [token for token, _ in result.top] == [0, 1, 2]
    assert [value for _, value in result.top] == pytest.approx(exact_logprobs[:3])
    assert score(row, 4, 0).top == ()


def test_a_model_that_computed_nonsense_still_gives_tokens() -> None:
    with np.errstate(invalid="ignore"):
        for value in (np.nan, np.inf, -np.inf):
            row = np.full((1, 8), value, dtype=np.float32)
            for params in (SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_p=0.5, top_k=2)):
                assert 0 <= sample(row, (SampleSpec(params),)).tokens[0] < 8
