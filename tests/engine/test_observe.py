"""What the worker tells of its sequences' times adds up, over restarts too, and is told seldom."""

from headgate.engine import wire
from headgate.engine.metrics import BOUNDS, FINISHES, EngineStats, Timings
from headgate.engine.plan import Slice, StepPlan
from headgate.engine.worker.observe import EVERY_S, Observer
from tests.clock import VirtualClock


def plan(*keys: int, tokens: int = 1) -> StepPlan:
    return StepPlan(1, tuple(Slice(key, (0,) * tokens, 0, (0,), 1) for key in keys), ())


def observed(timings: Timings, name: str) -> tuple[int, float]:
    distribution = timings.distributions[name]
    return sum(distribution.counts), distribution.total


def test_the_times_of_a_sequence_are_told_apart() -> None:
    clock = VirtualClock()
    observer = Observer(clock)
    observer.submitted(1, 30)
    clock.jump(2.0)
    observer.planned(plan(1, tokens=30))
    clock.jump(1.0)
    observer.drew(1, 1, clock.monotonic(), None)
    clock.jump(0.25)
    observer.planned(plan(1))
    observer.drew(1, 3, clock.monotonic(), "stop")
    told = observer.report(resting=True)
    assert told is not None
    assert observed(told, "request_queue_time_seconds") == (1, 2.0)
    assert observed(told, "request_prefill_time_seconds") == (1, 1.0)
    assert observed(told, "time_to_first_token_seconds") == (1, 3.0)
    assert observed(told, "inter_token_latency_seconds") == (1, 0.25)
    assert observed(told, "request_decode_time_seconds") == (1, 0.25)
    assert observed(told, "e2e_request_latency_seconds") == (1, 3.25)
    assert observed(told, "request_prompt_tokens") == (1, 30)
    assert observed(told, "request_generation_tokens") == (1, 4)
    assert observed(told, "iteration_tokens_total") == (2, 31)
    assert told.finished == {**dict.fromkeys(FINISHES, 0), "stop": 1}


def test_who_leaves_is_counted_and_not_timed_and_nothing_of_it_is_kept() -> None:
    clock = VirtualClock()
    observer = Observer(clock)
    for key in range(3):
        observer.submitted(key, 5)
    observer.planned(plan(0, 1))
    observer.cancelled(0)
    observer.cancelled(2)
    observer.drew(1, 1, clock.monotonic(), "failed")
    observer.drew(0, 1, clock.monotonic(), "stop")  # it was on its way
    told = observer.report(resting=True)
    assert told is not None
    assert told.finished == {"stop": 0, "length": 0, "abort": 2, "error": 1}
    assert observed(told, "e2e_request_latency_seconds")[0] == 1


def test_it_is_told_seldom_while_there_is_work_and_once_more_before_a_rest() -> None:
    clock = VirtualClock()
    observer = Observer(clock)
    told = 0
    for _ in range(1000):
        observer.planned(plan(1))
        clock.jump(0.125)
        told += observer.report(resting=False) is not None
    assert told == int(1000 * 0.125 / EVERY_S)
    observer.planned(plan(1))
    assert observer.report(resting=True) is not None
    assert observer.report(resting=True) is None


def test_totals_go_on_over_restarts_and_gauges_do_not() -> None:
    before = EngineStats(*range(1, 20))
    now = EngineStats(7, 8, 9, 10, 100, plan_s=0.5, accepted_tokens=3)
    both = now.since(before)
    assert (both.running, both.waiting, both.kv_blocks_used, both.kv_blocks_total) == (7, 8, 9, 10)
    assert (both.prompt_tokens, both.plan_s, both.accepted_tokens) == (105, 10.5, 22)


def test_a_report_with_everything_comes_through_the_wire() -> None:
    timings = Timings.empty()
    for name, bounds in BOUNDS.items():
        for value in (0.0, bounds[0], bounds[-1], bounds[-1] * 2):
            timings.distributions[name].observe(value, bounds)
    report = wire.Report([], EngineStats(1, 2), timings)
    (frame,) = wire.Frames().feed(wire.encode(report))
    assert wire.decode_from_worker(frame) == report
    assert len(frame) < 4096
    twice = timings.plus(timings)
    assert all(sum(of.counts) == 8 for of in twice.distributions.values())
    assert all(of.counts[0] == 2 * 2 and of.counts[-1] == 2 for of in twice.distributions.values())
    loading = wire.Loading("weights", 5, 10)
    (frame,) = wire.Frames().feed(wire.encode(loading))
    assert wire.decode_from_worker(frame) == loading
