"""Small parts of the path at their edges: the alarm, the course of a call, a place that is lent, what is remembered."""

import asyncio
import random

import pytest
from msgspec import structs

from headgate.backends.outliers import OutlierSettings
from headgate.backends.pulse import Pulse, Sense, WatchSettings
from headgate.backends.replicas import Replicas
from headgate.backends.scripted import ScriptedBackend
from headgate.core.errors import BadCall, Overloaded, Upstream, UpstreamTimeout
from headgate.core.target import Target
from headgate.pipeline.alarm import Alarm
from headgate.pipeline.capacity import Fixed
from headgate.pipeline.gate import Gate, GateSettings
from headgate.pipeline.route import named
from tests.clock import VirtualClock
from tests.pipeline.spine import make_call
from tests.pipeline.test_course import LONG, OWN, SMALL, TOO_LONG, course, told, walk
from tests.pipeline.test_gate import House

LONGER = Target("longer", "xl")


@pytest.mark.parametrize("first", ["caller", "alarm"])
def test_who_leaves_in_the_turn_in_which_the_alarm_rings_has_left(first: str) -> None:
    async def waits(alarm: Alarm) -> None:
        try:
            alarm.listen()
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError as cancelled:
            error = alarm.taken_back()
            if error is None:
                raise
            raise error from cancelled
        finally:
            alarm.stop()

    async def main() -> None:
        alarm = Alarm(60.0)
        task = asyncio.create_task(waits(alarm))
        await asyncio.sleep(0)
        if first == "caller":
            task.cancel()
        alarm.ring(Upstream("silent"))
        if first == "alarm":
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(main())


def test_a_longer_model_that_is_too_short_as_well_is_followed_by_the_next_of_its_chain() -> None:
    way = course(OWN, fallbacks=(SMALL,), chains={"context_length": (LONG, LONGER)})
    assert told(walk(way, TOO_LONG)) == ["own first", "long fallback", "longer fallback"]


def test_what_stops_a_call_stops_it_in_the_chain_of_another_class_too() -> None:
    way = course(OWN, chains={"context_length": (LONG, LONGER)})
    step = way.after(way.first(), TOO_LONG, 60.0, lambda _: True)
    assert step is not None
    assert step.target == LONG
    assert way.after(step, BadCall("no", code="content_filter"), 60.0, lambda _: True) is None


def test_where_only_fallbacks_are_left_and_all_are_ill_the_first_is_asked_all_the_same() -> None:
    step = course(fallbacks=(SMALL, LONG), ill={"small": "down", "long": "down"}).first()
    assert (step.target, step.reason, step.anyway) == (SMALL, "fallback", True)


@pytest.mark.parametrize("code", ["ledger_unavailable", "ledger_behind"])
def test_a_ledger_that_takes_nothing_is_no_reason_to_ask_elsewhere(code: str) -> None:
    error = Overloaded("behind", code=code, retry_after=0.1)
    assert told(walk(course(OWN, fallbacks=(SMALL,)), error)) == ["own first"]


def test_a_place_is_lent_once_however_many_attempts_of_its_call_wait() -> None:
    async def main() -> None:
        clock = VirtualClock()
        door = Gate("door", Fixed(5), GateSettings(), clock)
        house = House()
        slot = await door.enter(house.ticket())
        slot.pause()
        slot.pause()
        assert door.active == 0
        slot.resume()
        assert door.active == 0, "the other attempt waits still"
        slot.resume()
        assert door.active == 1
        slot.leave()
        assert door.active == 0

    asyncio.run(main())


def test_a_pool_that_came_back_as_a_whole_is_usable_at_once() -> None:
    clock = VirtualClock()
    replicas = Replicas(clock, random.Random(3), outliers=OutlierSettings(return_s=1_000.0))
    replicas.use({"a": "pool", "b": "pool"})
    for at in ("a", "b"):
        replicas.failing(at, "no answer")
    for at in ("a", "b"):
        replicas.failing(at, None)
    assert all(replicas.usable(at) for at in ("a", "b") for _ in range(50)), "nobody is there to take their share"


def test_a_replica_that_is_gone_has_nothing_in_flight() -> None:
    replicas = Replicas(VirtualClock(), random.Random(3))
    replicas.use({"a": "a"})
    replicas.use({})
    assert replicas.pulse("a").in_flight == 0


SPARE = tuple(Target("spare", "s", replica=f"spare-{number}") for number in range(1, 6))


def test_a_fallback_with_replicas_is_asked_at_the_best_of_them() -> None:
    way = course(OWN, fallbacks=(*SPARE, LONG))
    way._order = lambda targets: targets[::-1]
    assert told(walk(way, UpstreamTimeout("slow")))[:2] == ["own first", "spare-5 fallback"]


def test_the_replicas_of_a_fallback_together_have_as_many_attempts_as_a_model_and_are_paid_for() -> None:
    slow = UpstreamTimeout("slow")
    assert told(walk(course(OWN, fallbacks=(*SPARE, LONG)), slow)) == [
        "own first", "spare-1 fallback", "spare-2 fallback", "spare-3 fallback", "long fallback",
    ]  # fmt: skip
    assert told(walk(course(OWN, fallbacks=(*SPARE, LONG)), slow, allowed=False)) == [
        "own first", "spare-1 fallback", "long fallback",
    ]  # fmt: skip


def test_replicas_of_a_fallback_that_have_no_room_cost_no_attempts() -> None:
    full = Overloaded("full", code="queue_full")
    assert len(walk(course(OWN, fallbacks=SPARE), full, allowed=False)) == 6


def test_a_stream_goes_on_at_the_best_replica_of_a_fallback() -> None:
    way = course(OWN, fallbacks=SPARE, attempts=1)
    way._order = lambda targets: targets[::-1]
    step = way.onwards(way.first(), "replay", lambda _: True)
    assert step is not None
    assert step.target.at == "spare-5"
    assert way.onwards(step, "replay", lambda _: True) is None, "one attempt at each model was allowed"


def test_models_that_think_before_they_speak_are_not_taken_for_stuck() -> None:
    def found_after(seconds: float, usual_s: float) -> str:
        pulse, sense = Pulse(), Sense(WatchSettings())
        if usual_s:
            pulse.began_after(usual_s)
        pulse.in_flight = pulse.waiting = 2
        sense.look(pulse, 0.0)
        return sense.look(pulse, seconds)

    assert found_after(11.0, 0.0) == "stuck"
    assert found_after(11.0, 1.0) == "stuck"
    assert found_after(40.0, 12.0) == "fine"
    assert found_after(61.0, 12.0) == "stuck"


def test_who_names_a_replica_gets_it_under_its_backends_name_and_switch() -> None:
    clock = VirtualClock()
    backend = ScriptedBackend(clock, name="pool-2")
    call = structs.replace(make_call(clock), backend="pool-2", dialect=backend.kind)
    found = named(call, {"pool-2": backend}, {"pool": ("pool-1", "pool-2")})
    assert found.targets == (Target("pool", "m", replica="pool-2"),)
    with pytest.raises(Overloaded, match="switched off"):
        named(call, {"pool-2": backend}, {"pool": ("pool-1", "pool-2")}, lambda name, _: name == "pool")
