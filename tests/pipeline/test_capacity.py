"""The limit found from latency: near the true capacity, quick to shrink, never fooled by latency that stays flat."""

import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.pipeline.capacity import KINDS_MAX, Adaptive, AdaptiveSettings, Fixed
from tests.pipeline.served import Served, flat, spread

SERVICE_S = 0.5
WARM, LOOK = 1_000, 1_000


def near(backend: Served, unloaded: float) -> None:
    """The limit is near the number of servers, and latency near that of an idle backend."""
    backend.run(WARM)
    backend.run(LOOK)
    found = mean(backend.limits) / backend.servers
    assert 0.8 <= found <= 1.5, (found, backend.latency)
    assert backend.latency <= 1.5 * unloaded, (found, backend.latency)


@pytest.mark.parametrize("servers", [10, 20, 50])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_the_limit_follows_the_capacity_down_and_up(servers: int, sigma: float, seed: int) -> None:
    backend = Served(Adaptive(AdaptiveSettings(min=2)), servers, spread(SERVICE_S, sigma, seed), 500)
    backend.run(WARM)  # five hundred at once, far more than it takes
    near(backend, SERVICE_S)
    backend.servers = servers // 2
    near(backend, SERVICE_S)
    backend.servers = servers
    near(backend, SERVICE_S)


@pytest.mark.parametrize("seed", range(3))
def test_a_backend_slower_for_good_is_not_throttled_for_ever(seed: int) -> None:
    backend = Served(Adaptive(AdaptiveSettings(min=2)), 20, spread(SERVICE_S, 0.3, seed), 500)
    backend.run(3 * WARM)
    backend.service = spread(2 * SERVICE_S, 0.3, seed)
    near(backend, 2 * SERVICE_S)
    backend.service = spread(SERVICE_S, 0.3, seed)
    near(backend, SERVICE_S)


@pytest.mark.parametrize("offered", [1, 5, 50, 500])
def test_flat_latency_never_shrinks_the_limit(offered: int) -> None:
    backend = Served(Adaptive(AdaptiveSettings(min=2)), 10_000, flat(SERVICE_S), offered)
    backend.run(5_000)
    assert min(backend.limits) == 1_000


@pytest.mark.parametrize("offered", [5, 50, 500])
@pytest.mark.parametrize("seed", range(3))
def test_nor_does_latency_that_only_varies(offered: int, seed: int) -> None:
    backend = Served(Adaptive(AdaptiveSettings(min=2)), 10_000, spread(SERVICE_S, 0.5, seed), offered)
    backend.run(20_000)
    assert min(backend.limits) == 1_000


def test_a_limit_far_above_acts_within_the_calls_then_in_flight() -> None:
    limit = Adaptive(AdaptiveSettings(initial=1_000_000, min=2, max=1_000_000))
    backend = Served(limit, 20, flat(SERVICE_S), 500)
    backend.run(500)
    assert limit.limit < 250


def test_it_grows_only_while_it_is_used() -> None:
    limit = Adaptive(AdaptiveSettings(initial=40, min=2))
    for call in range(2_000):
        limit.sample(SERVICE_S, 20, call * 0.1)
    assert limit.limit == 40
    for call in range(2_000):
        limit.sample(SERVICE_S, limit.limit, 200 + call * 0.1)
    assert limit.limit > 100


def test_calls_that_time_out_or_are_refused_shrink_it_once_per_second() -> None:
    limit = Adaptive(AdaptiveSettings(initial=1_000, min=2))
    for _ in range(100):
        limit.dropped(500, 10.0)
    assert limit.limit == 400
    limit.dropped(300, 11.0)
    assert limit.limit == 240
    for second in range(60):
        limit.dropped(3, 12.0 + second)
    assert limit.limit == limit.settings.min


def test_a_few_refusals_among_many_answers_do_not_shrink_it() -> None:
    limit = Adaptive(AdaptiveSettings(min=2))
    now = 0.0
    for call in range(20_000):
        now += 0.01
        limit.sample(SERVICE_S, 50, now)
        if call % 50 == 25:
            limit.dropped(50, now)
    assert limit.limit == 1_000
    for _ in range(300):
        now += 0.01
        limit.dropped(50, now)
    assert limit.limit < 300


def test_kinds_of_calls_do_not_disturb_each_other() -> None:
    """Streams begin in 0.2 s and whole answers take 20 s: a change of the mix is no queue."""
    limit = Adaptive(AdaptiveSettings(min=2))
    rng = random.Random(1)
    now = 0.0
    for call in range(20_000):
        stream = rng.random() < (0.9 if call // 2_000 % 2 else 0.1)
        now += 0.05
        limit.sample((0.2 if stream else 20.0) * rng.lognormvariate(0, 0.2), 100, now, "stream" if stream else "body")
    assert limit.limit == 1_000


def test_any_number_of_kinds_costs_bounded_memory() -> None:
    limit = Adaptive(AdaptiveSettings(min=2))
    for call in range(5_000):
        limit.sample(1.0, 10, call, f"kind-{call}")
    assert len(limit._signals) <= KINDS_MAX + 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.floats(allow_nan=True, allow_infinity=True), st.integers(1, 10**6)),
            st.tuples(st.none(), st.integers(1, 10**6)),
        ),
        max_size=300,
    ),
    st.integers(1, 10),
    st.integers(10, 1_000),
)
def test_whatever_it_is_told_it_stays_in_its_bounds(
    told: list[tuple[float | None, int]], least: int, most: int
) -> None:
    limit = Adaptive(AdaptiveSettings(min=least, max=most))
    for now, (latency, in_flight) in enumerate(told):
        if latency is None:
            limit.dropped(in_flight, now)
        else:
            limit.sample(latency, in_flight, now)
        assert least <= limit.limit <= most


def test_a_fixed_limit_learns_nothing() -> None:
    limit = Fixed(7)
    limit.sample(100.0, 7, 1.0)
    limit.dropped(7, 1.0)
    assert limit.limit == 7


def test_refusals_of_calls_that_come_one_by_one_say_nothing_about_how_many_may_come() -> None:
    limit = Adaptive(AdaptiveSettings(min=2))
    for number in range(200):
        if number % 10:
            limit.sample(0.5, 1, 2.0 * number, "stream", 2.0)
        else:
            limit.dropped(1, 2.0 * number)
    assert limit.limit == 1000
