"""When blocks run out: who goes, what is computed again, and that everybody gets on."""

from headgate.engine.plan import SamplingParams, Share
from headgate.engine.scheduling.sequence import Sequence
from tests.engine.drive import Engine, limits
from tests.engine.machine_runner import HashRunner, expected_text

FREE = SamplingParams(ignore_eos=True)


def start(engine: Engine, prompt: list[int], max_tokens: int, priority: int = 0) -> int:
    share = Share(priority=priority)
    return engine.add(Sequence(engine.next_key, tuple(prompt), FREE, max_tokens=max_tokens, share=share))


def test_the_newest_is_preempted_and_the_oldest_never() -> None:
    engine = Engine(HashRunner(1), limits(blocks=40, block_size=1, max_batch_tokens=64))
    prompts = [[5 + index] * 8 for index in range(4)]
    for prompt in prompts:
        start(engine, prompt, 30)
    engine.run()
    assert list(engine.finished) == [0, 1, 2, 3]
    assert engine.scheduler.counters.preemptions > 0
    assert engine.scheduler.counters.prompt_tokens == 32
    assert engine.scheduler.counters.generated_tokens == 120
    for key, prompt in enumerate(prompts):
        assert engine.texts[key] == expected_text(prompt, 30, stop=False)


def test_the_least_urgent_goes_first_whenever_it_came() -> None:
    engine = Engine(HashRunner(1), limits(blocks=50, block_size=1, max_batch_tokens=64))
    for priority in (2, 1, 0):
        start(engine, [5 + priority] * 8, 30, priority)
    engine.run()
    assert engine.scheduler.counters.preemptions > 0
    assert list(engine.finished) == [2, 1, 0]


def test_waiting_makes_more_urgent() -> None:
    engine = Engine(HashRunner(1), limits(blocks=50, block_size=1, max_batch_tokens=64, age_s=1.0))
    start(engine, [5] * 8, 30, 2)
    engine.now = 1.5
    start(engine, [6] * 8, 30, 1)
    engine.now = 2.3
    start(engine, [7] * 8, 30, 0)
    engine.run()
    assert engine.scheduler.counters.preemptions > 0
    assert list(engine.finished) == [0, 2, 1]


def test_an_urgent_prompt_takes_blocks_of_a_stream_that_already_has_its_token_of_the_step() -> None:
    engine = Engine(HashRunner(1), limits(blocks=40, block_size=1, max_batch_tokens=3))
    start(engine, [5, 6], 30)
    for _ in range(4):
        engine.step()
    start(engine, list(range(25)), 4, -5)
    planned: list[int] = []
    while not engine.scheduler.counters.preemptions:
        plan = engine.scheduler.plan(0.0)
        assert plan is not None
        planned = [part.key for part in plan.slices]
        engine.compute(plan)
    assert planned == [1]
    engine.run()
    assert list(engine.finished) == [1, 0]
    assert engine.texts[0] == expected_text([5, 6], 30, stop=False)
    assert engine.texts[1] == expected_text(list(range(25)), 4, stop=False)


def test_a_preempted_sequence_finds_its_own_blocks_again() -> None:
    again = {}
    for cache in (True, False):
        engine = Engine(HashRunner(4), limits(blocks=20, block_size=4, max_batch_tokens=64, prefix_cache=cache))
        start(engine, [5] * 16, 30)
        start(engine, [6] * 24, 50)
        engine.run()
        assert engine.scheduler.counters.preemptions == 1
        assert engine.texts[1] == expected_text([6] * 24, 50, stop=False)
        again[cache] = engine.scheduler.counters.computed_tokens - (16 + 29 + 24 + 49)
    assert again[True] < 16
    assert again[False] > 40


def test_admission_does_not_thrash() -> None:
    """Sixty sequences through a cache that holds a tenth of them: little is computed twice."""
    engine = Engine(HashRunner(8), limits(blocks=60, max_sequences=32, max_batch_tokens=64, prefix_cache=False))
    for index in range(60):
        start(engine, [index] * 20, 60)
    engine.run()
    least = 60 * (20 + 60 - 1)
    assert engine.scheduler.counters.computed_tokens < 1.3 * least
    assert engine.scheduler.counters.preemptions < 60
