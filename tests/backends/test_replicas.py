"""The registry: what several sources know of a replica, joined; and silence under load, with a real stopped process."""

import asyncio
import random

import pytest

from headgate.backends.pulse import Pulse, Sense, WatchSettings
from headgate.backends.replicas import STUCK, Replicas
from headgate.core.errors import HeadgateError, Overloaded, Truncated, Upstream
from headgate.core.ports import Health
from headgate.core.tasks import Tasks
from tests.clock import VirtualClock

Told = list[tuple[str, str, str]]
AUTH = Upstream("x", code="upstream_auth")


def registry(names: str = "a b") -> tuple[Replicas, VirtualClock, Told]:
    clock = VirtualClock()
    told: Told = []
    replicas = Replicas(clock, random.Random(3), lambda at, state, why: told.append((at, state, why)))
    replicas.use(dict.fromkeys(names.split(), "pool"))
    return replicas, clock, told


def ends(replicas: Replicas, at: str, error: HeadgateError | None, times: int = 1) -> None:
    for _ in range(times):
        one = replicas.enter(at, anyway=True)
        assert one is not None
        one.ended(error)


def test_a_refused_credential_opens_at_once_and_for_long_and_one_call_probes_it() -> None:
    replicas, clock, told = registry()
    ends(replicas, "a", AUTH)
    assert told == [("a", "open", "credential refused (upstream_auth)")]
    assert replicas.why_not("a") == "credential refused (upstream_auth)"
    assert 240 <= replicas.again_in("a") <= 300
    assert replicas.enter("a") is None
    clock.jump(300)
    assert replicas.usable("a")
    probe = replicas.enter("a")
    assert probe is not None
    assert probe.probe
    assert replicas.enter("a") is None
    assert not replicas.usable("a")
    assert replicas.why_not("a") == "breaker half-open, its probe is out"
    probe.ended(AUTH)
    assert replicas.states() == {"a": 2, "b": 0}


def test_failures_open_it_with_their_code_and_a_good_probe_closes_it() -> None:
    replicas, clock, told = registry("a")
    ends(replicas, "a", Upstream("x", code="upstream_unreachable"), times=5)
    assert replicas.why_not("a") == "breaker open (upstream_unreachable)"
    clock.jump(2)
    probe = replicas.enter("a")
    assert probe is not None
    probe.ended(None)
    assert [state for _, state, _ in told] == ["open", "half_open", "closed"]
    assert replicas.why_not("a") is None


def test_a_probe_that_begins_and_is_cut_opens_it_again() -> None:
    replicas, clock, _ = registry("a")
    ends(replicas, "a", Upstream("x"), times=5)
    clock.jump(2)
    probe = replicas.enter("a")
    assert probe is not None
    probe.began(0.1)
    assert replicas.usable("a")
    probe.ended(Truncated("x"))
    assert replicas.states() == {"a": 2}


def test_results_of_calls_from_before_it_opened_change_nothing() -> None:
    replicas, _, told = registry("a")
    early = [replicas.enter("a") for _ in range(20)]
    for one in early[:12]:
        assert one is not None
        one.ended(Upstream("x"))
    for one in early[12:]:
        assert one is not None
        one.ended(None)
    assert [state for _, state, _ in told] == ["open"]


def test_an_overloaded_one_rests_as_long_as_it_asks_for_a_minute_at_most() -> None:
    replicas, clock, told = registry("a")
    ends(replicas, "a", Overloaded("x", status=429, code="upstream_rate_limited", retry_after=5.0))
    assert replicas.states() == {"a": 4}
    assert told == [("a", "paused", "overloaded: paused for 5.0 s")]
    clock.jump(4.9)
    assert not replicas.usable("a")
    clock.jump(0.2)
    assert replicas.usable("a")
    ends(replicas, "a", Overloaded("x", status=429, code="upstream_rate_limited", retry_after=86_400.0))
    assert replicas.again_in("a") == pytest.approx(60.0)


def test_without_a_word_of_how_long_its_rests_double_and_a_good_call_ends_the_row() -> None:
    replicas, clock, _ = registry("a")
    spans = []
    for _ in range(8):
        calls = [replicas.enter("a") for _ in range(3)]
        for one in calls:
            assert one is not None
            one.ended(Overloaded("x", code="upstream_overloaded"))  # three at once are one sign, not three
        spans.append(replicas.again_in("a"))
        clock.jump(spans[-1] + 0.01)
    assert spans == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60])
    ends(replicas, "a", None)
    ends(replicas, "a", Overloaded("x", code="upstream_overloaded"))
    assert replicas.again_in("a") == pytest.approx(1.0)


def test_the_least_bad_is_the_one_to_be_tried_soonest_and_its_success_closes_it() -> None:
    replicas, _, _ = registry("a b c d")
    ends(replicas, "a", AUTH)
    replicas.failing("b", "no answer")
    ends(replicas, "c", Upstream("x"), times=5)
    ends(replicas, "d", Overloaded("x", code="upstream_overloaded", retry_after=30.0))
    assert not any(replicas.usable(name) for name in "abcd")
    assert replicas.least_bad("abcd") == "c"
    assert replicas.least_bad("ab") == "a"
    one = replicas.enter("c", anyway=True)
    assert one is not None
    one.ended(None)
    assert replicas.states() == {"a": 2, "b": 5, "c": 0, "d": 4}
    assert {replicas.least_bad("xy") for _ in range(50)} == {"x", "y"}  # of equals not always the same


def test_failing_probes_take_it_out_and_good_ones_bring_it_back() -> None:
    replicas, _, told = registry("a")
    replicas.failing("a", "no answer within 0.5 s")
    assert replicas.why_not("a") == "failing: no answer within 0.5 s"
    assert replicas.enter("a") is None
    replicas.failing("a", None)
    assert replicas.usable("a")
    assert [state for _, state, _ in told] == ["failing", "closed"]


def test_what_is_gone_is_forgotten_what_stays_is_kept_and_what_changed_begins_anew() -> None:
    replicas, _, told = registry("a b")
    ends(replicas, "a", AUTH)
    ends(replicas, "b", AUTH)
    replicas.use({"b": "pool"})
    assert replicas.usable("a")
    assert not replicas.usable("b")
    late = replicas.enter("b", anyway=True)
    replicas.forget(["b", "unknown"])
    assert replicas.usable("b")
    assert told[-1] == ("b", "closed", "closed")
    assert late is not None
    late.ended(AUTH)
    assert replicas.states() == {"b": 0}
    replicas.use({"a": "pool"})
    assert replicas.states() == {"a": 0}


SECONDS = 0.1


def looks(sense: Sense, pulse: Pulse, begin: float, steps: int, every: int) -> list[str]:
    """What is found at each of these steps, while a token comes after each `every` of them; 0: none comes."""
    found: list[str] = []
    for step in range(steps):
        pulse.beats += bool(every) and step % every == 0
        found.append(sense.look(pulse, begin + step * SECONDS))
    return found


def test_silence_is_measured_against_the_usual_gap() -> None:
    for every, silent_after in (1, 1.0), (5, 2.5):
        sense, pulse = Sense(WatchSettings()), Pulse()
        pulse.in_flight = 3
        assert set(looks(sense, pulse, 0.0, 101, every)) == {"fine"}
        assert sense.silent_after == pytest.approx(silent_after, rel=0.1)
        quiet = looks(sense, pulse, 10.1, 40, 0)
        assert quiet.index("silent") * SECONDS + 0.1 == pytest.approx(silent_after, rel=0.15)


def test_an_idle_one_and_one_of_which_nothing_is_known_are_not_silent() -> None:
    sense, pulse = Sense(WatchSettings()), Pulse()
    assert set(looks(sense, pulse, 0.0, 50, 0)) == {"fine"}
    pulse.in_flight = 1
    assert set(looks(sense, pulse, 5.0, 50, 0)) == {"fine"}


def test_heads_without_tokens_while_calls_wait_are_no_progress() -> None:
    sense, pulse = Sense(WatchSettings()), Pulse()
    pulse.in_flight = pulse.waiting = 2
    found: list[str] = []
    for step in range(120):
        pulse.heads += 1
        found.append(sense.look(pulse, step * SECONDS))
    assert found.index("stuck") * SECONDS == pytest.approx(10.0, abs=0.2)


def watched(generate: bool | None, beats: bool = False) -> tuple[list[int], Told]:
    """The gauge after 5, 11 and 30 seconds of two calls that wait; `generate` is what a one-token call finds."""

    async def main() -> tuple[list[int], Told]:
        replicas, clock, told = registry("a")
        tasks = Tasks()
        suspects: list[str] = []

        async def ask(at: str) -> Health:
            await clock.sleep(0.5)
            return Health(bool(generate), "asked")

        tasks.spawn(replicas.watch(suspects.append, None if generate is None else ask))
        waiting = [replicas.enter("a"), replicas.enter("a")]
        found = []
        for second in range(31):
            await clock.advance(1.0)
            replicas.pulse("a").beats += beats
            if second in {5, 11, 30}:
                found.append(replicas.states()["a"])
        for one in waiting:
            assert one is not None
            one.dropped()
        await tasks.aclose()
        assert tasks.failures == []
        return found, told

    return asyncio.run(main())


def test_one_that_makes_no_token_is_taken_out_whatever_its_health_page_says() -> None:
    found, told = watched(None)
    assert found[:2] == [0, 2]
    assert told[0] == ("a", "open", STUCK)


def test_where_it_can_be_asked_for_a_token_that_decides() -> None:
    assert watched(False)[0][:2] == [0, 2]
    assert watched(True)[0] == [0, 0, 0]


def test_as_long_as_tokens_come_waiting_calls_are_no_sign() -> None:
    assert watched(None, beats=True)[0] == [0, 0, 0]
