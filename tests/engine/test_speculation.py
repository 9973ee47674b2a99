"""Speculation changes when tokens come, not which: the distribution of whole texts is exact, whatever is proposed."""

from collections import Counter

import numpy as np
import pytest
from msgspec.structs import replace

from headgate.engine.plan import Draft, SampleSpec, SamplingParams
from headgate.engine.sampling.sampler import sample
from tests.engine import toys
from tests.engine.filters import border, g_statistic

TARGET = toys.model(1)
GUESSES = {
    "right": toys.drawing(TARGET),
    "nearly right": toys.drawing(lambda text: TARGET(text) + toys.model(2, 0.3)(text)),
    "wrong": toys.drawing(toys.model(3)),
    "contrary": toys.drawing(toys.contrary(TARGET)),
    "sure of itself": toys.drawing(lambda text: 40 * toys.model(4)(text)),
    "looked up": toys.looked_up,
}
SETTINGS = {
    "plain": SamplingParams(),
    "filtered": SamplingParams(temperature=0.8, top_k=4, top_p=0.92),
    "penalised": SamplingParams(
        presence_penalty=0.6, frequency_penalty=0.3, repetition_penalty=1.3, min_p=0.05, logit_bias={2: 0.7}
    ),
}
CASES = [(guess, setting) for guess in GUESSES for setting in SETTINGS]
CHANCE = 1e-6
"""Of a false alarm of all cases together."""


def check(guess: str, setting: str, *, texts: int, seeded: bool) -> None:
    """G-test over whole texts of three tokens, of which two are drafted."""
    expected = toys.chances(TARGET, SETTINGS[setting], 3)
    order = {text: at for at, text in enumerate(expected)}
    counts: Counter[int] = Counter()
    for seed in range(texts):
        params = replace(SETTINGS[setting], seed=seed, seeded=seeded)
        counts[order[toys.generate(TARGET, params, 3, GUESSES[guess], drafts=2)[0]]] += 1
    statistic, freedom = g_statistic(counts, list(expected.values()))
    assert statistic < border(freedom, CHANCE / len(CASES)), (guess, setting, statistic, freedom)


@pytest.mark.parametrize(("guess", "setting"), [("nearly right", "penalised"), ("contrary", "plain")])
def test_texts_are_distributed_as_without_drafts(guess: str, setting: str) -> None:
    check(guess, setting, texts=2_000, seeded=False)


@pytest.mark.prove
@pytest.mark.parametrize(("guess", "setting"), CASES)
def test_texts_are_distributed_as_without_drafts_for_every_guess(guess: str, setting: str) -> None:
    check(guess, setting, texts=25_000, seeded=False)


@pytest.mark.prove
@pytest.mark.parametrize("setting", SETTINGS)
def test_texts_of_callers_seeds_are_distributed_as_without_drafts(setting: str) -> None:
    check("nearly right", setting, texts=25_000, seeded=True)


@pytest.mark.parametrize("guess", GUESSES)
def test_a_callers_seed_gives_the_same_text_with_and_without_drafts(guess: str) -> None:
    for setting in SETTINGS.values():
        for seed in range(12):
            params = replace(setting, seed=seed, seeded=True)
            plain, _ = toys.generate(TARGET, params, 24, choice=seed % 3)
            assert toys.generate(TARGET, params, 24, GUESSES[guess], choice=seed % 3)[0] == plain


@pytest.mark.parametrize("guess", GUESSES)
def test_the_most_likely_text_is_the_same_with_and_without_drafts(guess: str) -> None:
    for setting in SETTINGS.values():
        params = replace(setting, temperature=0.0)
        assert toys.generate(TARGET, params, 60, GUESSES[guess])[0] == toys.generate(TARGET, params, 60)[0]


def test_what_was_looked_up_never_changes_a_text_seeded_or_not() -> None:
    for seed in range(30):
        params = SamplingParams(seed=seed, top_p=0.9)
        plain, steps = toys.generate(TARGET, params, 40)
        text, fewer = toys.generate(TARGET, params, 40, toys.looked_up)
        assert text == plain
        assert fewer <= steps


def test_a_draft_model_that_is_right_is_never_refused() -> None:
    for seeded in (False, True):
        for temperature in (0.0, 1.0):
            params = SamplingParams(seed=6, seeded=seeded, temperature=temperature)
            _, steps = toys.generate(TARGET, params, 40, GUESSES["right"])
            assert steps == 10


def test_rejection_keeps_more_than_comparison_would() -> None:
    """It keeps 1 - TV(p, q) of the tokens: here two thirds and more, where they agree in fewer by chance."""
    steps = {
        seeded: sum(
            toys.generate(TARGET, SamplingParams(seed=seed, seeded=seeded), 40, GUESSES["nearly right"])[1]
            for seed in range(60)
        )
        for seeded in (False, True)
    }
    assert steps[False] < steps[True]


def test_a_grammar_that_cuts_drafts_leaves_the_distribution_alone() -> None:
    """A draft is cut before the token that breaks the grammar, which depends on what was drawn."""
    allowed = {0, 2, 3}
    mask = bytes([sum(1 << token for token in allowed)])
    logits = TARGET(())
    guess = toys.drawing(toys.model(3))
    counts: Counter[int] = Counter()
    for seed in range(3_000):
        spec = toys.spec_after((), SamplingParams(seed=seed))
        made = guess((), spec, 1)
        assert made.weights is not None
        kept = Draft(made.tokens, made.weights) if made.tokens[0] in allowed else None
        rows = np.stack([logits, TARGET(made.tokens)]) if kept else logits[None]
        drafted = SampleSpec(spec.params, draft=kept)
        masks = (mask,) * len(rows)
        counts[sample(rows, (drafted,), (masks,)).tokens[0][0]] += 1
    weights = [float(np.exp(logits[token])) if token in allowed else 0.0 for token in range(toys.VOCABULARY)]
    statistic, freedom = g_statistic(counts, [weight / sum(weights) for weight in weights])
    assert statistic < border(freedom, CHANCE)


def test_drafts_of_different_lengths_and_kinds_are_verified_side_by_side() -> None:
    kinds = [
        SamplingParams(seed=3), SamplingParams(seed=4, seeded=True), SamplingParams(temperature=0.0),
        SamplingParams(seed=5, top_p=0.8, logprobs=1), SamplingParams(seed=6, presence_penalty=0.5),
    ]  # fmt: skip
    rows, samples, alone = [], [], []
    for at, params in enumerate(kinds * 4):
        spec = toys.spec_after((at % 5, 1), params)
        made = GUESSES["nearly right"]((at % 5, 1), spec, 1 + at % 3) if at % 4 else None
        spec = replace(spec, draft=made)
        tokens = () if made is None else made.tokens
        own = np.stack([TARGET((at % 5, 1, *tokens[:place])) for place in range(len(tokens) + 1)])
        alone.append(sample(own, (spec,), (None,)))
        rows.append(own)
        samples.append(spec)
    together = sample(np.concatenate(rows), tuple(samples), (None,) * len(samples))
    assert together.tokens == tuple(one.tokens[0] for one in alone)
    for index, one in enumerate(together.scores):
        assert (one is None) == (kinds[index % 5].logprobs is None)
        assert one is None or len(one) == len(together.tokens[index])
