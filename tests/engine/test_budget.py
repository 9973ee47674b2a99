"""Prompts beside running streams: how much of a step they get, and what that does to the streams."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from headgate.engine.plan import SamplingParams, StepPlan
from headgate.engine.scheduling.budget import SMALLEST_CHUNK, STRETCH, StepTimes
from tests.engine.drive import Engine, limits
from tests.engine.machine_runner import HashRunner

FREE = SamplingParams(ignore_eos=True)


@given(
    base=st.floats(0.001, 0.1), each=st.floats(0.0001, 0.01), step=st.floats(0.001, 0.1),
    chunks=st.lists(st.integers(0, 300), min_size=5, max_size=60),
)  # fmt: skip
def test_what_steps_cost_is_learned(base: float, each: float, step: float, chunks: list[int]) -> None:
    times = StepTimes(step)
    for chunk in (*chunks, *[0, 7, 0, 40] * 10):
        times.learn(chunk, base + each * chunk)
    assert abs(times.base_s - base) < 1e-6
    assert abs(times.each_s - each) < 1e-6
    chunk = times.chunk(10_000)
    room = max(step, STRETCH * base) - base
    assert abs(chunk - min(max(room / times.each_s, SMALLEST_CHUNK), 10_000)) < 1.001


def test_the_budget_follows_a_load_that_changes() -> None:
    times = StepTimes(0.02)
    for base in (0.001, 0.01, 0.1, 0.002):
        for index in range(60):
            chunk = times.chunk(256) if index % 3 == 0 else 0
            times.learn(chunk, base + 0.001 * chunk)
        assert abs(times.base_s - base) < 0.1 * base
        assert abs(times.each_s - 0.001) < 0.0001


def test_one_slow_step_is_soon_forgotten() -> None:
    times = StepTimes(0.02)
    for index in range(40):
        times.learn(10 * (index % 2), 0.002 + 0.0005 * 10 * (index % 2))
    times.learn(10, 1.0)
    for _ in range(60):
        chunk = times.chunk(256)
        times.learn(chunk, 0.002 + 0.0005 * chunk)
    assert times.chunk(256) >= 30


def test_steps_that_differ_by_chance_hardly_change_what_prompts_get() -> None:
    """Fifteen per cent of noise, and one step in a hundred takes five times as long; ten tokens would be right."""
    rng = Random(3)
    times = StepTimes(0.02)
    times.learn(100, 0.11)
    chunks: list[int] = []
    for _ in range(20_000):
        chunk = times.chunk(512) if rng.random() < 0.5 else 0
        chunks += [chunk] if chunk else []
        slow = 5.0 if rng.random() < 0.01 else rng.uniform(0.85, 1.15)
        times.learn(chunk, (0.01 + 0.001 * chunk) * slow)
    chunks.sort()
    assert 7 <= sum(chunks) / len(chunks) <= 11
    assert chunks[int(len(chunks) * 0.99)] <= 20
    assert chunks[-1] <= 60


def test_alone_a_prompt_takes_all_the_budget() -> None:
    engine = Engine(TimedRunner(0.01, 0.002), limits(max_batch_tokens=100, context_length=2000, blocks=300))
    engine.submit([1] * 1000, 5, FREE)
    plans = []
    while engine.scheduler.busy:
        plan = engine.scheduler.plan(engine.now)
        assert plan is not None
        plans.append(plan.tokens)
        compute(engine, plan)
    assert plans[:10] == [100] * 10


def test_a_prompt_ten_times_longer_moves_the_gaps_of_streams_by_a_factor_of_two_at_most() -> None:
    """A step takes 10 ms and 1 ms for each token of a prompt; prompts of 40 tokens come all the time, then one of 400
    with them. The 99th percentile of the time between two tokens of the streams, without and with it.
    """
    usual, moved = gaps(long=False), gaps(long=True)
    assert moved <= 2 * usual
    assert gaps(long=True, step_s=10.0) > 5 * usual  # what it would be without the budget


def gaps(*, long: bool, step_s: float = 0.02) -> float:
    size = limits(max_batch_tokens=512, context_length=2000, blocks=900, max_sequences=16, step_s=step_s)
    engine = Engine(TimedRunner(0.01, 0.001), size)
    streams = [engine.submit([key] * 40, 600, FREE) for key in range(1, 5)]
    seen: list[float] = []
    last: dict[int, float] = {}
    for step in range(300):
        if step % 15 == 0:
            engine.submit([step % 90, step // 90] * 20, 5, FREE)
        if long and step % 60 == 30:
            engine.submit([step % 90, 6 + step // 90] * 200, 5, FREE)
        plan = engine.scheduler.plan(engine.now)
        assert plan is not None
        for key in compute(engine, plan):
            if key in streams:
                if key in last and step > 60:
                    seen.append(engine.now - last[key])
                last[key] = engine.now
    seen.sort()
    return seen[int(0.99 * len(seen))]


class TimedRunner(HashRunner):
    """One whose steps last as long as they are told to."""

    def __init__(self, base_s: float, each_s: float) -> None:
        super().__init__(8)
        self._base_s = base_s
        self._each_s = each_s

    def seconds(self, plan: StepPlan) -> float:
        return self._base_s + self._each_s * sum(len(part.tokens) for part in plan.slices if len(part.tokens) > 1)


def compute(engine: Engine, plan: StepPlan) -> list[int]:
    """The sequences that got tokens."""
    assert isinstance(engine.runner, TimedRunner)
    engine.step_s = engine.runner.seconds(plan)
    return [output.key for output in engine.compute(plan)]
