"""The breaker: the table walked whole, and a machine that does to one replica whatever may be done, in any order."""

import itertools
import random
from typing import get_args

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headgate.backends.breaker import TABLE, Breaker, BreakerSettings, Event, State
from headgate.backends.replica import Pass, verdict
from headgate.backends.replicas import Replicas
from headgate.core.errors import (
    BadCall,
    Blocked,
    Bug,
    HeadgateError,
    NotFound,
    OverBudget,
    OverLimit,
    Overloaded,
    Truncated,
    Upstream,
    UpstreamTimeout,
)
from tests.clock import VirtualClock

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)
EVERY = list(itertools.product(STATES, EVENTS))
ONCE = BreakerSettings(failures=1, jitter=0.0, open_s=2.0, open_max_s=7.0, auth_s=300.0)
OPENS = {
    ("closed", "tripped"), ("closed", "refused"), ("closed", "stuck"), ("half_open", "refused"),
    ("probing", "failed"), ("probing", "tripped"), ("probing", "refused"),
}  # fmt: skip
CLOSES = {("open", "fine"), ("half_open", "fine"), ("probing", "fine"), ("probing", "began")}
PROBES = {("open", "due"): "half_open", ("half_open", "taken"): "probing", ("probing", "dropped"): "half_open"}


@pytest.mark.parametrize(("state", "event"), EVERY)
def test_every_event_in_every_state_leads_where_the_diagram_says(state: State, event: Event) -> None:
    after = TABLE[state].get(event, state)
    if (state, event) in OPENS:
        assert after == "open"
    elif (state, event) in CLOSES:
        assert after == "closed"
    else:
        assert after == PROBES.get((state, event), state)


RNG = random.Random(4)


def now_is(breaker: Breaker) -> str:
    return breaker.state


def in_state(state: State) -> tuple[Breaker, float]:
    """A breaker brought there by its own methods, and the time."""
    breaker = Breaker(ONCE)
    if state == "closed":
        return breaker, 0.0
    breaker.failed(0.0, RNG, "x")
    if state == "open":
        return breaker, 0.0
    breaker.look(2.0)
    if state == "probing":
        breaker.taken()
    return breaker, 2.0


@pytest.mark.parametrize(("state", "event"), EVERY)
def test_the_breaker_goes_by_its_table(state: State, event: Event) -> None:
    breaker, now = in_state(state)
    assert breaker.state == state
    era = breaker.era
    match event:
        case "began":
            breaker.began()
        case "fine":
            breaker.fine(now)
        case "failed" | "tripped":
            breaker.failed(now, RNG, "x")
        case "refused":
            breaker.refused(now, RNG, "x")
        case "stuck":
            breaker.stuck(now, RNG, "x")
        case "due":
            breaker.look(now + 100)
        case "taken":
            breaker.taken()
        case "dropped":
            breaker.dropped()
    expected = TABLE[state].get("tripped" if event == "failed" else event, state)
    assert breaker.state == expected
    assert (breaker.era != era) == (expected != state and expected in {"open", "closed"})


def test_failures_in_a_row_open_it_and_one_success_between_them_does_not() -> None:
    breaker = Breaker(BreakerSettings(failures=3))
    for good in (False, False, True, False, False):
        breaker.fine(0.0) if good else breaker.failed(0.0, RNG, "x")
    assert now_is(breaker) == "closed"
    breaker.failed(0.0, RNG, "x")
    assert now_is(breaker) == "open"


def test_a_share_of_failures_opens_it_once_there_are_calls_enough_and_old_ones_do_not_count() -> None:
    breaker = Breaker(BreakerSettings(failures=1000, min_calls=20, share=0.5, window_s=30.0))
    for place in range(19):
        breaker.failed(0.0, RNG, "x") if place % 2 else breaker.fine(0.0)
    assert now_is(breaker) == "closed"
    for place in range(19):
        breaker.failed(60.0, RNG, "x") if place % 2 else breaker.fine(60.0)
    assert now_is(breaker) == "closed"  # nineteen again: the others are a minute old
    breaker.failed(60.0, RNG, "x")
    assert now_is(breaker) == "open"


def test_each_failed_probe_doubles_the_open_time_up_to_the_cap_and_a_whole_answer_begins_anew() -> None:
    breaker, now, spans = Breaker(ONCE), 0.0, []
    breaker.failed(now, RNG, "x")
    for _ in range(4):
        spans.append(breaker.until - now)
        now = breaker.until
        breaker.look(now)
        breaker.taken()
        breaker.failed(now, RNG, "x")
    assert spans == [2.0, 4.0, 7.0, 7.0]
    breaker.look(now + 7)
    breaker.taken()
    breaker.fine(now + 7)
    breaker.failed(now + 7, RNG, "x")
    assert breaker.until - now - 7 == 2.0


def test_a_probe_that_began_closes_it_on_trial() -> None:
    breaker = Breaker(BreakerSettings(failures=5, jitter=0.0))
    for _ in range(5):
        breaker.failed(0.0, RNG, "x")
    breaker.look(2.0)
    breaker.taken()
    breaker.began()
    assert now_is(breaker) == "closed"
    breaker.failed(2.0, RNG, "cut")
    assert now_is(breaker) == "open"
    assert breaker.until == 6.0  # not the first time: twice as long


@pytest.mark.parametrize("settings", [b'{"open_s":9,"open_max_s":3}', b'{"pause_s":9,"pause_max_s":3}'])
def test_times_that_contradict_each_other_are_refused(settings: bytes) -> None:
    with pytest.raises(msgspec.ValidationError, match="Raise it"):
        msgspec.json.decode(settings, type=BreakerSettings)


CALLERS: tuple[HeadgateError, ...] = (
    BadCall("x"), NotFound("x"), OverLimit("x"), OverBudget("x"), Blocked("x"), Bug("x"),
    BadCall("x", code="context_length_exceeded"), BadCall("x", code="content_filter"),
    UpstreamTimeout("x", code="deadline_exceeded"), Overloaded("x", code="queue_full"),
    Overloaded("x", code="upstream_pool_full"),
)  # fmt: skip
THEIRS: tuple[HeadgateError, ...] = (Upstream("x"), Truncated("x"), UpstreamTimeout("x"))


@pytest.mark.parametrize("error", CALLERS)
def test_what_is_the_caller_s_or_ours_tells_nothing_of_the_replica(error: HeadgateError) -> None:
    assert verdict(error) == "nothing"


def test_what_is_theirs_fails_refuses_or_asks_for_a_rest() -> None:
    assert [verdict(error) for error in (None, *THEIRS)] == ["fine", "failed", "failed", "failed"]
    assert verdict(Upstream("x", code="upstream_auth")) == "refused"
    assert verdict(Overloaded("x", code="upstream_quota")) == "refused"
    assert verdict(Overloaded("x", code="upstream_rate_limited", status=429)) == "overloaded"


CAP = ONCE.auth_s


class OneReplica(RuleBasedStateMachine):
    """Attempts that end in any way, at any time and order; some are made although the breaker says no."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = VirtualClock()
        self.told: list[str] = []
        self.replicas = Replicas(
            self.clock,
            random.Random(1),
            lambda at, state, why: self.told.append(state),
            breaker=BreakerSettings(failures=2, open_s=2.0, open_max_s=8.0, pause_max_s=20.0),
        )
        self.replicas.use({"a": "a"})
        self.out: list[Pass] = []
        self.unusable_since: float | None = None

    @rule(anyway=st.booleans())
    def enter(self, anyway: bool) -> None:
        allowed = self.replicas.usable("a")
        one = self.replicas.enter("a", anyway=anyway)
        assert (one is not None) == (allowed or anyway)
        if one is not None:
            assert one.anyway is not allowed
            self.out.append(one)

    @precondition(lambda self: bool(self.out))
    @rule(
        place=st.integers(0, 50), error=st.sampled_from((None, *THEIRS, *CALLERS, Upstream("x", code="upstream_auth")))
    )
    def ends(self, place: int, error: HeadgateError | None) -> None:
        one = self.out.pop(place % len(self.out))
        one.ended(error, 0.1)
        one.ended(None)
        one.dropped()  # only the first word counts

    @precondition(lambda self: bool(self.out))
    @rule(place=st.integers(0, 50), asked=st.sampled_from((None, 0.0, 5.0, 86_400.0)))
    def overloaded(self, place: int, asked: float | None) -> None:
        self.out.pop(place % len(self.out)).ended(Overloaded("x", code="upstream_overloaded", retry_after=asked))

    @precondition(lambda self: bool(self.out))
    @rule(place=st.integers(0, 50))
    def begins(self, place: int) -> None:
        self.out[place % len(self.out)].began(0.2)

    @precondition(lambda self: bool(self.out))
    @rule(place=st.integers(0, 50))
    def is_dropped(self, place: int) -> None:
        self.out.pop(place % len(self.out)).dropped()

    @rule(seconds=st.sampled_from((0.1, 1.0, 3.0, 10.0)))
    def time_passes(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @invariant()
    def one_probe_at_most_is_out(self) -> None:
        assert sum(one.probe and one.current() for one in self.out) <= 1

    @invariant()
    def the_counters_are_those_that_are_out(self) -> None:
        pulse = self.replicas.pulse("a")
        assert pulse.in_flight == len(self.out)
        assert 0 <= pulse.waiting <= pulse.in_flight

    @invariant()
    def what_is_not_usable_says_why_and_until_when(self) -> None:
        why = self.replicas.why_not("a")
        assert (why is None) == self.replicas.usable("a")
        assert self.replicas.again_in("a") <= CAP

    def teardown(self) -> None:
        for one in self.out:
            one.dropped()
        self.clock.jump(CAP)
        assert self.replicas.usable("a")
        one_more = self.replicas.enter("a")
        assert one_more is not None
        one_more.ended(None)
        assert self.replicas.states() == {"a": 0}
        assert all(a != b for a, b in itertools.pairwise(self.told))


TestOneReplica = OneReplica.TestCase
TestOneReplica.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_storm_of_the_callers_own_failures_never_opens_it() -> None:
    replicas = Replicas(VirtualClock(), random.Random(1))
    replicas.use({"a": "a"})
    for place in range(10_000):
        one = replicas.enter("a")
        assert one is not None
        one.ended(CALLERS[place % len(CALLERS)])
    assert replicas.states() == {"a": 0}
