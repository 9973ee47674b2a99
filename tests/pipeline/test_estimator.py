"""Guesses of a prompt's tokens: better with every call, careful before money is at stake."""

import random

import pytest

from headgate.pipeline.estimator import SURE_AFTER, Estimator
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call


def test_a_model_it_does_not_know_is_guessed_from_bytes_and_held_with_room_to_spare() -> None:
    call = make_call(VirtualClock(), text="x" * 4000)
    estimator = Estimator()
    assert estimator.likely(call) == pytest.approx(1000, rel=0.1)
    assert estimator.careful(call) >= 2 * estimator.likely(call)


def test_an_image_that_is_named_by_its_address_counts_as_one() -> None:
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "https://x.test/1.png"}},
    ]
    call = make_call(VirtualClock(), messages=[{"role": "user", "content": parts}])
    assert Estimator().likely(call) > 1000
    plain = make_call(VirtualClock(), messages=[{"role": "user", "content": parts[:1]}])
    assert Estimator().likely(plain) < 100


@pytest.mark.parametrize("truth", [0.4, 1.0, 3.0])
def test_it_learns_how_many_tokens_a_model_makes_of_its_callers_bytes(truth: float) -> None:
    estimator, rng, clock = Estimator(), random.Random(3), VirtualClock()
    for _ in range(200):
        call = make_call(clock, text="x" * rng.randrange(500, 8000))
        estimator.learn(call, round(len(call.raw) / 4 * truth * rng.uniform(0.9, 1.1)))
    call = make_call(clock, text="x" * 6000)
    assert estimator.likely(call) == pytest.approx(len(call.raw) / 4 * truth, rel=0.1)
    assert estimator.likely(call) < estimator.careful(call) < 1.5 * estimator.likely(call)
    assert 0.02 < estimator.errors()["m"] < 0.15


def test_a_careful_guess_is_rarely_too_small() -> None:
    estimator, rng, clock = Estimator(), random.Random(4), VirtualClock()
    low = 0
    for number in range(2000):
        call = make_call(clock, text="x" * rng.randrange(200, 4000))
        actual = round(len(call.raw) / 4 * rng.lognormvariate(0.0, 0.15))
        if number > SURE_AFTER and estimator.careful(call) < actual:
            low += 1
        estimator.learn(call, actual)
    assert low <= 20


def test_models_it_remembers_are_bounded() -> None:
    estimator, clock = Estimator(), VirtualClock()
    for number in range(3000):
        estimator.learn(make_call(clock, f"m{number}"), 10)
    assert len(estimator.errors()) <= 1000


def test_a_count_of_nothing_teaches_nothing() -> None:
    estimator = Estimator()
    estimator.learn(make_call(VirtualClock()), 0)
    assert estimator.errors() == {}
