"""Drawing in the documented order: filters do what they say, seeds decide everything, nonsense does no harm."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.plan import Draft, SampleSpec, SamplingParams, Score
from headgate.engine.sampling.adjust import adjust
from headgate.engine.sampling.draws import DRAW, RECOVER, filtered, pick, uniform
from headgate.engine.sampling.sampler import sample
from headgate.engine.sampling.spread import Spread
from tests.engine.filters import exact

LOGITS = np.log(np.array([0.35, 0.25, 0.15, 0.1, 0.08, 0.05, 0.015, 0.005], dtype=np.float64)).astype(np.float32)


def first(row: np.ndarray, spec: SampleSpec, mask: bytes | None = None) -> int:
    masks = (None,) if mask is None else ((mask,),)
    return sample(row[None], (spec,), masks).tokens[0][0]


def bits(allowed: set[int], size: int) -> bytes:
    return np.packbits([token in allowed for token in range(size)], bitorder="little").tobytes()


Rows = tuple[np.ndarray, list[SamplingParams]]
PARAMS = st.builds(
    SamplingParams,
    temperature=st.floats(2e-5, 2),
    top_k=st.just(0) | st.integers(0, 50),
    top_p=st.just(1.0) | st.floats(0, 1),
    min_p=st.just(0.0) | st.floats(0, 1),
)


def _rows(seed: int, size: int, spread: float, decimals: int, params: list[SamplingParams]) -> Rows:
    logits = np.random.default_rng(seed).standard_normal((len(params), size)) * spread
    return np.round(logits, decimals).astype(np.float32), params


ROWS: st.SearchStrategy[Rows] = st.builds(
    _rows,
    st.integers(0, 2**32),
    st.integers(2, 600),
    st.floats(0, 8),
    st.integers(0, 6),  # coarse ones have many equals
    st.lists(PARAMS, min_size=1, max_size=5),
)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_one_row_many_rows_and_the_slow_way_agree(rows: Rows) -> None:
    logits, each = rows
    spread = Spread(logits, each)
    for index, params in enumerate(each):
        expected = exact(logits[index].tolist(), SampleSpec(params))
        for ids, weights in (filtered(logits[index], params), spread.row(index)):
            dense = np.zeros(logits.shape[1])
            dense[slice(None) if ids is None else ids] = weights / weights.sum()
            # A weight at a border may fall on either side of it: that much may differ, and no more.
            near = 2e-5 if ids is None else 2e-5 + dense[dense > 0].min()
            assert np.abs(np.sort(dense) - np.sort(expected)).max() < near


@settings(max_examples=80, deadline=None)
@given(ROWS, st.floats(0, 1, exclude_max=True))
def test_no_token_of_no_weight_is_drawn_wherever_the_number_falls(rows: Rows, number: float) -> None:
    logits, each = rows
    logits[:, 1::2] = -np.inf
    for at in (0.0, number, 1.0 - 2.0**-53):
        tokens = Spread(logits, each).draw(np.full(len(each), at))
        assert all(token % 2 == 0 for token in tokens)
        for row, params in zip(logits, each, strict=True):
            assert pick(filtered(row, params), at) % 2 == 0


def test_random_numbers_depend_on_seed_choice_position_and_purpose_only() -> None:
    seen = {
        uniform(seed, choice, position, purpose)
        for seed in (-(2**63), 0, 9)
        for choice in range(3)
        for position in range(9)
        for purpose in (DRAW, RECOVER)
    }
    assert len(seen) == 162
    assert uniform(9, 2, 8) == uniform(9, 2, 8)
    assert all(0 <= value < 1 for value in seen)
    many = [uniform(1, 0, position) for position in range(20_000)]
    assert abs(float(np.mean(many)) - 0.5) < 0.01
    assert abs(float(np.var(many)) - 1 / 12) < 0.002


def test_greedy_takes_the_most_likely_and_company_changes_nothing() -> None:
    rows = np.stack([LOGITS, LOGITS[::-1], np.roll(LOGITS, 3)])
    greedy, random = SampleSpec(SamplingParams(temperature=0.0)), SampleSpec(SamplingParams(seed=4))
    assert sample(rows, (greedy,) * 3, (None,) * 3).tokens == ((0,), (7,), (3,))
    alone = first(rows[1], random)
    assert sample(rows, (greedy, random, greedy), (None,) * 3).tokens == ((0,), (alone,), (3,))


def test_a_sequence_draws_the_same_alone_and_in_a_crowd_of_all_kinds() -> None:
    rng = np.random.default_rng(3)
    size = 40
    rows = (rng.standard_normal((size, 500)) * 3).astype(np.float32)
    kinds = [
        SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_p=0.9), SamplingParams(top_k=7),
        SamplingParams(min_p=0.1), SamplingParams(top_k=9, top_p=0.7, temperature=1.4), SamplingParams(logprobs=2),
        SamplingParams(presence_penalty=1.0), SamplingParams(logit_bias={3: 4.0}),
    ]  # fmt: skip
    specs = [SampleSpec(kinds[at % len(kinds)], at, 5, ((1, 2), (3, 4))) for at in range(size)]
    masks = tuple((bits(set(range(0, 500, 3)), 500),) if at % 5 == 0 else None for at in range(size))
    crowd = sample(rows, tuple(specs), masks)
    for at in range(size):
        alone = sample(rows[at : at + 1], (specs[at],), (masks[at],))
        assert alone.tokens[0] == crowd.tokens[at]
        assert (alone.scores[0] is None) == (crowd.scores[at] is None)


def test_end_tokens_cannot_be_drawn_before_min_tokens() -> None:
    params = SamplingParams(temperature=0.0, stop_ids=(0, 1), min_tokens=2)
    assert [first(LOGITS, SampleSpec(params, 0, position)) for position in range(3)] == [2, 2, 0]
    allowed = bits({0, 5}, 8)  # where a grammar lets nothing else follow, the text ends
    assert first(LOGITS, SampleSpec(params), allowed) == 0


def test_bias_and_penalties_are_applied_as_documented() -> None:
    row = np.array([2.0, -1.0, 0.5, 0.0], dtype=np.float32)
    params = SamplingParams(logit_bias={3: 5.0}, presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    spec = SampleSpec(params, 0, 3, ((0, 2), (1, 1)), (1, 2))
    given = row.copy()
    sample(given[None], (spec,), (None,))
    assert given.tolist() == row.tolist()
    adjust(given, spec)
    assert given.tolist() == pytest.approx([2.0 / 2 - 0.5 - 0.5, -1.0 * 2 - 0.5 - 0.25, 0.5 / 2, 5.0])


def test_a_bias_of_a_hundred_forces_and_forbids() -> None:
    assert first(LOGITS, SampleSpec(SamplingParams(temperature=0.0, logit_bias={6: 100.0}))) == 6
    forbidden = SamplingParams(logit_bias={token: -100.0 for token in range(8) if token != 7})
    assert all(first(LOGITS, SampleSpec(forbidden, 0, at)) == 7 for at in range(50))


def test_a_mask_allows_nothing_else_also_where_it_is_shorter_than_the_vocabulary() -> None:
    drawn = {first(LOGITS, SampleSpec(SamplingParams(), 0, at), bits({5, 7}, 8)) for at in range(200)}
    assert drawn == {5, 7}
    wide = np.concatenate([LOGITS, np.full(8, 3.0, dtype=np.float32)])
    assert {first(wide, SampleSpec(SamplingParams(), 0, at), bits({5, 7}, 8)) for at in range(200)} == {5, 7}


def test_logprobs_are_of_the_raw_distribution_and_sorted() -> None:
    row = LOGITS * 3 + 2
    logprobs = row - np.log(np.exp(row.astype(np.float64)).sum())
    params = SamplingParams(logprobs=3, logit_bias={4: 100.0}, temperature=0.1, top_k=1)
    result = sample(row[None], (SampleSpec(params),), (None,))
    assert result.tokens == ((4,),)
    assert result.scores[0] is not None
    (score,) = result.scores[0]
    assert score.logprob == pytest.approx(logprobs[4])
    assert [token for token, _ in score.top] == [0, 1, 2]
    assert [value for _, value in score.top] == pytest.approx(logprobs[:3])


def test_each_request_gets_as_many_alternatives_as_it_asked_for() -> None:
    tops = [None, 0, 2, 20, 1]
    samples = tuple(SampleSpec(SamplingParams(temperature=0.0, logprobs=top)) for top in tops)
    scores = sample(np.stack([LOGITS] * 5), samples, (None,) * 5).scores
    assert [None if one is None else len(one[0].top) for one in scores] == [None, 0, 2, 8, 1]


def test_a_draft_is_kept_as_far_as_it_is_right_with_a_score_for_every_token() -> None:
    rows = np.stack([LOGITS, np.roll(LOGITS, 2), np.roll(LOGITS, 5)])
    params = SamplingParams(temperature=0.0, logprobs=1)
    drafts = {(0, 2): (0, 2, 5), (0, 1): (0, 2), (3, 2): (0,)}
    for tokens, kept in drafts.items():
        result = sample(rows, (SampleSpec(params, draft=Draft(tokens)),), (None,))
        assert result.tokens == (kept,)
        assert result.scores[0] is not None
        assert [score.top[0][0] for score in result.scores[0]] == list(kept)


def test_penalties_and_held_back_ends_know_the_draft_before_a_row() -> None:
    rows = np.stack([LOGITS] * 3)
    once = SamplingParams(temperature=0.0, presence_penalty=9.0)
    assert sample(rows, (SampleSpec(once, draft=Draft((0, 1))),), (None,)).tokens == ((0, 1, 2),)
    late = SamplingParams(temperature=0.0, stop_ids=(0,), min_tokens=2)
    assert sample(rows, (SampleSpec(late, draft=Draft((1, 1))),), (None,)).tokens == ((1, 1, 0),)


def test_each_row_of_a_draft_has_its_own_mask() -> None:
    rows = np.stack([LOGITS] * 3)
    masks = ((bits({3}, 8), bits({4}, 8), bits({6}, 8)),)
    for params in (SamplingParams(), SamplingParams(temperature=0.0)):
        assert sample(rows, (SampleSpec(params, draft=Draft((3, 4))),), masks).tokens == ((3, 4, 6),)


@dataclass
class Nonsense:
    row: list[float]
    may: set[int]


NONSENSE = [
    Nonsense([np.nan] * 4, {0, 1, 2, 3}), Nonsense([np.inf] * 4, {0, 1, 2, 3}), Nonsense([-np.inf] * 4, {0, 1, 2, 3}),
    Nonsense([0.0, np.nan, 1.0, -np.inf], {0, 1, 2}), Nonsense([0.0, np.inf, 1.0, np.inf], {1, 3}),
    Nonsense([3e38, -3e38, 3e38, 0.0], {0, 2}),
]  # fmt: skip


@pytest.mark.parametrize("many", [1, 9])
def test_a_model_that_computed_nonsense_still_gives_tokens(many: int) -> None:
    for params in (
        SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_p=0.5, top_k=2),
        SamplingParams(top_p=0.4),
        SamplingParams(min_p=0.1, logprobs=2), SamplingParams(logprobs=4, repetition_penalty=1.3),
    ):  # fmt: skip
        for case in NONSENSE:
            rows = np.array([case.row] * many, dtype=np.float32)
            spec = SampleSpec(params, 0, 1, ((0, 1),), (1,))
            result = sample(rows, (spec,) * many, (None,) * many)
            assert {tokens[0] for tokens in result.tokens} <= case.may
            for scores in result.scores:
                assert scores is None or all(_finite(score) for score in scores)


def _finite(score: Score) -> bool:
    return bool(np.isfinite([score.logprob, *(value for _, value in score.top)]).all())


def test_a_mask_holds_also_where_the_model_computed_nonsense() -> None:
    row = np.full(8, np.nan, dtype=np.float32)
    for params in (SamplingParams(), SamplingParams(temperature=0.0), SamplingParams(top_k=3)):
        assert first(row, SampleSpec(params), bits({5}, 8)) == 5
