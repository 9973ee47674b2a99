"""What the n-gram proposer finds, and how long drafts are to be."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.plan import Draft, SampleSpec, SamplingParams, Wanted
from headgate.engine.speculation.speculate import LONGEST, READ_AT_ONCE, SHORTEST, WINDOW, NGram, Pace

SAMPLE = SampleSpec(SamplingParams())


def ask(proposer: NGram, tokens: list[int], most: int = 4, key: int = 1) -> tuple[int, ...] | None:
    (draft,) = proposer.propose([Wanted(key, tokens, (), most, SAMPLE)])
    assert draft is None or draft.weights is None
    return None if draft is None else draft.tokens


def slow(tokens: list[int], most: int) -> tuple[int, ...] | None:
    """The latest of the longest matches, found by looking everywhere."""
    for length in range(LONGEST, SHORTEST - 1, -1):
        for place in range(len(tokens) - 1, length - 1, -1):
            if tokens[place - length : place] == tokens[len(tokens) - length :]:
                text = list(tokens)
                for at in range(most):
                    text.append(text[place + at])
                return tuple(text[len(tokens) :])
    return None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=20), st.lists(st.integers(1, 4), max_size=6), st.integers(1, 6))
def test_the_draft_is_what_followed_the_latest_longest_match(begin: list[int], steps: list[int], most: int) -> None:
    rng = random.Random(len(begin))
    proposer, tokens = NGram(), list(begin)
    for step in [0, *steps]:
        tokens += [rng.randrange(4) for _ in range(step)]
        assert ask(proposer, tokens, most) == ask(NGram(), tokens, most)
        assert ask(proposer, tokens, most) == slow(tokens, most)


def test_texts_are_kept_apart_and_forgotten() -> None:
    proposer = NGram()
    assert ask(proposer, [1, 2, 3, 1, 2], key=1) == (3, 1, 2, 3)
    assert ask(proposer, [1, 2, 9, 1, 2], key=2) == (9, 1, 2, 9)
    proposer.forget(1)
    assert ask(proposer, [1, 2, 7, 1, 2], key=1) == (7, 1, 2, 7)
    assert ask(proposer, [1, 2], key=1) is None  # shorter than what was read: it is another text
    assert ask(proposer, [5], key=3) is None
    assert ask(proposer, [], key=4) is None


def test_a_long_prompt_is_read_a_part_per_step_and_old_tokens_are_let_go() -> None:
    proposer = NGram()
    prompt = [*range(2 * READ_AT_ONCE + 10), 3, 4]
    assert [ask(proposer, prompt, 2) for _ in range(3)] == [None, None, (5, 6)]
    tokens = [100_000, 100_001, 7, *range(WINDOW), 100_000, 100_001]
    for _ in range(WINDOW // READ_AT_ONCE + 1):
        found = ask(proposer, tokens, 1, key=2)
    assert found is None  # it stands further back than the window reaches
    while len(tokens) < 4 * WINDOW:
        tokens += [len(tokens), len(tokens) + 1] * 50
        ask(proposer, tokens, 1, key=2)
    sizes = [len(text._earlier) for text in proposer._texts.values()]
    assert max(sizes) <= 2 * WINDOW


def test_nothing_is_proposed_where_nothing_is_wanted() -> None:
    assert ask(NGram(), [1, 2, 1, 2], most=0) is None
    assert NGram().propose([]) == []


def lengths(pace: Pace, rate: float, steps: int = 300, seed: int = 0) -> list[int]:
    """The lengths that a sequence gets whose tokens are right with that chance each."""
    rng, out = random.Random(seed), []
    for _ in range(steps):
        proposed = pace.length(1)
        accepted = next((at for at in range(proposed) if rng.random() >= rate), proposed)
        pace.result(1, proposed, accepted)
        out.append(proposed)
    return out


def test_drafts_that_are_right_become_as_long_as_they_may() -> None:
    assert set(lengths(Pace(6), 1.0)[20:]) == {6}


def test_drafts_that_are_wrong_are_given_up_but_tried_now_and_then() -> None:
    tried = lengths(Pace(6), 0.0, 2000)
    assert sum(length > 0 for length in tried[50:]) in range(5, 25)
    assert max(tried[50:]) <= 2


def test_drafts_that_turn_right_again_are_found_out() -> None:
    pace = Pace(4)
    lengths(pace, 0.0, 500)
    assert lengths(pace, 1.0, 400)[-1] == 4


@pytest.mark.parametrize(("rate", "shortest", "longest"), [(0.9, 5, 8), (0.5, 1, 3)])
def test_the_length_follows_the_rate(rate: float, shortest: int, longest: int) -> None:
    found = sorted(lengths(Pace(8), rate, 1000)[100:])
    assert shortest <= found[len(found) // 2] <= longest


def test_a_new_sequence_begins_with_what_others_have_shown() -> None:
    pace = Pace(4)
    assert pace.length(7) > 0
    lengths(pace, 0.0, 100)
    assert pace.length(2) == 0 or pace.length(3) == 0 or pace.length(4) <= 2


def test_sequences_are_judged_apart_and_forgotten() -> None:
    pace = Pace(4)
    lengths(pace, 0.0, 100)
    for _ in range(200):
        proposed = pace.length(2)
        pace.result(2, proposed, proposed)
    assert pace.length(2) == 4
    pace.forget(1)
    pace.forget(1)
    pace.result(1, 4, 4)  # of a sequence that has ended meanwhile
    assert pace.length(1) >= 1


def busy(pace: Pace, *, token_s: float, steps: int = 600) -> list[int]:
    """Steps of 1 ms, and so much more for each token verified; nine of ten tokens are right."""
    rng, out = random.Random(5), []
    for _ in range(steps):
        proposed = pace.length(1)
        pace.result(1, proposed, next((at for at in range(proposed) if rng.random() >= 0.9), proposed))
        pace.took(1, proposed, 0.001 + token_s * proposed)
        out.append(proposed)
    return out


def test_where_verifying_is_as_dear_as_computing_nothing_is_drafted() -> None:
    assert sum(busy(Pace(4), token_s=0.0015)[100:]) < 60
    free = busy(Pace(4), token_s=0.00001)[100:]
    assert sorted(free)[len(free) // 2] == 4
    assert 0 < free.count(0) < len(free) / 16  # what a step costs by itself is looked at again


def test_one_slow_step_changes_little() -> None:
    pace = Pace(4)
    busy(pace, token_s=0.00001)
    pace.took(1, 4, 30.0)
    pace.took(1, 0, 30.0)
    assert busy(pace, token_s=0.00001)[-1] == 4


def test_a_draft_may_be_kept_while_others_go_on() -> None:
    proposer = NGram()
    drafts = proposer.propose([Wanted(1, [1, 2, 3, 1, 2], (), 2, SAMPLE), Wanted(2, [1], (), 2, SAMPLE)])
    assert drafts == [Draft((3, 1)), None]
