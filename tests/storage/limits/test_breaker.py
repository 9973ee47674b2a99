"""When a breaker opens, and what it takes to close it."""

from hypothesis import given
from hypothesis import strategies as st

from headgate.storage.limits.breaker import Breaker, BreakerSettings

SETTINGS = BreakerSettings(warm_s=0.0, slow_s=0.25)


def is_open(breaker: Breaker) -> bool:
    return breaker.open


def is_suspicious(breaker: Breaker) -> bool:
    return breaker.suspicious


def opened(breaker: Breaker, now: float) -> Breaker:
    for _ in range(5):
        breaker.failed(now)
    assert is_open(breaker)
    return breaker


def test_five_failures_in_a_row_open_it_and_a_good_answer_between_does_not() -> None:
    breaker = Breaker(SETTINGS)
    for number in range(4):
        breaker.failed(number * 10.0)
    assert is_suspicious(breaker)
    breaker.answered(0.001, 41.0)
    assert not is_suspicious(breaker)
    breaker.failed(50.0)
    assert not is_open(breaker)
    assert opened(Breaker(SETTINGS), 0.0).reason == "5 calls in a row failed"


def test_it_opens_when_one_answer_in_a_hundred_is_slow_and_not_for_fewer() -> None:
    breaker = Breaker(SETTINGS)
    for number in range(1_000):
        breaker.answered(0.3 if number % 200 == 0 else 0.001, number / 1_000)
    assert not is_open(breaker)
    for number in range(20):
        breaker.answered(0.3, 1.0 + number / 1_000)
    assert is_open(breaker)
    assert "250 ms" in breaker.reason


def test_slow_answers_while_connections_are_made_prove_nothing_but_failures_do() -> None:
    breaker = Breaker(BreakerSettings(slow_s=0.25))
    for number in range(50):
        breaker.answered(0.5, number / 100)
    assert not is_open(breaker)
    for number in range(50):
        breaker.answered(0.5, 2.0 + number / 100)
    assert is_open(breaker)
    assert opened(Breaker(), 0.0).open


def test_one_good_trial_closes_it_and_a_slow_one_does_not() -> None:
    breaker = opened(Breaker(SETTINGS), 0.0)
    assert not breaker.tried(None, 1.0)
    assert not breaker.tried(0.3, 2.0)
    assert breaker.tried(0.001, 3.0)
    assert not is_open(breaker)


def test_a_store_that_keeps_coming_and_going_must_prove_itself_longer_each_time() -> None:
    breaker, now, needed = Breaker(SETTINGS), 0.0, []
    for _ in range(7):
        opened(breaker, now)
        trials = 1
        while not breaker.tried(0.001, now):
            trials += 1
        needed.append(trials)
        now += 5.0
    assert needed == [1, 2, 4, 8, 16, 16, 16]
    opened(breaker, now + 60.0)
    assert breaker.tried(0.001, now + 60.0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["answer", "failure", "trial"]), st.floats(0.0, 0.3), st.floats(0.0, 5.0)),
        max_size=200,
    )
)
def test_however_calls_go_it_remembers_a_bounded_window_and_never_loses_count(
    steps: list[tuple[str, float, float]],
) -> None:
    breaker, now = Breaker(BreakerSettings(warm_s=0.0, window_calls=10)), 0.0
    for kind, seconds, passed in steps:
        now += passed
        if kind == "answer":
            breaker.answered(seconds, now)
        elif kind == "failure":
            breaker.failed(now)
        elif breaker.open or breaker.suspicious:
            breaker.tried(seconds if seconds > 0.05 else None, now)
        assert len(breaker._recent) <= 10
        assert breaker._slow == sum(slow for _, slow in breaker._recent)
