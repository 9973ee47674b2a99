"""Several choices of one prompt: it is computed once, and each choice goes on from it."""

import pytest

from headgate.engine.plan import SamplingParams
from headgate.engine.scheduling.sequence import Sequence
from tests.engine.drive import Engine, limits
from tests.engine.machine_runner import HashRunner, expected_text

FREE = SamplingParams(ignore_eos=True)


def family(engine: Engine, prompt: list[int], choices: int, max_tokens: int = 9) -> None:
    for choice in range(choices):
        sequence = Sequence(choice, tuple(prompt), FREE, max_tokens=max_tokens, choice=choice)
        engine.add(sequence, 0 if choice else None)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("length", [1, 7, 8, 9, 16, 29, 70])
def test_the_prompt_is_computed_once(length: int, cache: bool) -> None:
    engine = Engine(HashRunner(8), limits(prefix_cache=cache))
    prompt = list(range(1, length + 1))
    family(engine, prompt, 5)
    engine.run()
    for choice in range(5):
        assert engine.texts[choice] == expected_text(prompt, 9, stop=False)
        assert engine.cached[choice] == (length - 1 if choice else 0)
    assert engine.scheduler.counters.computed_tokens == length + 4 + 5 * 8
    assert engine.scheduler.pool.used == 0


def test_the_blocks_of_the_prompt_are_held_once() -> None:
    engine = Engine(HashRunner(8), limits())
    family(engine, list(range(60)), 8, max_tokens=4)
    while engine.scheduler.running < 8:
        engine.step()
    assert engine.scheduler.pool.used == 7 + 8  # full ones together, the last one of each


def test_children_wait_for_the_prompt_and_no_longer() -> None:
    engine = Engine(HashRunner(8), limits(max_batch_tokens=10))
    family(engine, list(range(35)), 3)
    for _ in range(4):
        assert (engine.scheduler.running, engine.scheduler.waiting) in ((0, 3), (1, 2))
        engine.step()
    assert engine.texts[0]
    engine.step()
    assert engine.scheduler.running == 3
    assert engine.scheduler.waiting == 0


def test_children_run_without_a_parent_that_is_gone() -> None:
    engine = Engine(HashRunner(8), limits(max_batch_tokens=10))
    family(engine, list(range(35)), 3)
    engine.step()
    engine.scheduler.cancel(0)
    engine.scheduler.cancel(2)
    engine.run()
    assert set(engine.finished) == {1}
    assert engine.texts[1] == expected_text(list(range(35)), 9, stop=False)


def test_a_child_that_waits_can_be_cancelled() -> None:
    engine = Engine(HashRunner(8), limits())
    family(engine, [1, 2, 3], 2)
    assert engine.scheduler.cancel(1)
    assert engine.scheduler.waiting == 1
    engine.run()
    assert set(engine.finished) == {0}
