"""The scheduler: no token lost, repeated or mixed up, no block leaked, and who comes first in a step."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from headgate.core.errors import BadCall, Overloaded
from headgate.engine.plan import SamplingParams, Share
from headgate.engine.scheduling.sequence import MOVES, Sequence, State
from tests.engine.drive import Engine, limits
from tests.engine.machine import SchedulerMachine
from tests.engine.machine_runner import AnyPace, FakeGrammar, Guesser, HashRunner, expected_text

FREE = SamplingParams(ignore_eos=True)

CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_no_token_is_lost_and_no_block_leaks_whatever_happens() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=CHECKS),
    )


@pytest.mark.prove
def test_no_token_is_lost_and_no_block_leaks_in_a_hundred_thousand_steps() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(max_examples=2200, stateful_step_count=50, deadline=None, suppress_health_check=CHECKS),
    )
    seen = SchedulerMachine.seen
    print(dict(seen))
    assert seen["steps"] >= 100_000
    for kind in ("preemptions", "cancelled", "copies", "prefix_hits", "accepted_tokens"):
        assert seen[kind] > 1000, kind
    assert seen["draft_tokens"] > seen["accepted_tokens"]


def test_every_sequence_state_allows_exactly_the_moves_of_the_diagram() -> None:
    for state in State:
        for to in State:
            sequence = Sequence(0, (1,), SamplingParams(), max_tokens=1)
            sequence.state = state
            if to in MOVES[state]:
                sequence.move(to)
                assert sequence.state is to
            else:
                with pytest.raises(RuntimeError, match="cannot go"):
                    sequence.move(to)


def test_a_long_prompt_is_computed_in_chunks_beside_running_decodes() -> None:
    size = limits(max_batch_tokens=8, blocks=60)
    engine = Engine(HashRunner(8), size)
    first = engine.submit([1], 200, SamplingParams(ignore_eos=True))
    engine.step()
    engine.submit(list(range(1, 40)), 5, SamplingParams(ignore_eos=True))
    for _ in range(6):
        plan = engine.scheduler.plan(0.0)
        assert plan is not None
        assert plan.tokens <= 8
        assert plan.slices[0].key == first
        assert len(plan.slices[0].tokens) == 1
        engine.compute(plan)


def test_first_come_is_first_served() -> None:
    engine = Engine(HashRunner(8), limits(max_sequences=1))
    for _ in range(5):
        engine.submit([3, 4], 3, SamplingParams(ignore_eos=True))
    engine.run()
    assert list(engine.finished) == [0, 1, 2, 3, 4]


def test_what_never_fits_is_refused_with_the_numbers() -> None:
    engine = Engine(HashRunner(8), limits(blocks=4))
    with pytest.raises(BadCall, match="33 tokens, but 34 were requested: 30 in the prompt and 4 to generate"):
        engine.submit([1] * 30, 4)
    assert engine.submit([1] * 30, 3, FREE) == 1
    engine.run()
    assert engine.finished == {1: "length"}


def test_what_is_over_the_queue_is_refused() -> None:
    engine = Engine(HashRunner(8), limits(max_sequences=1, max_waiting=2))
    for _ in range(3):
        engine.submit([1], 1)
    with pytest.raises(Overloaded):
        engine.submit([1], 1)


def test_forced_tokens_are_given_out_at_once_and_end_the_text_where_they_should() -> None:
    for prompt in range(1, 200):
        expected = expected_text([prompt % 50, prompt], 12, constrained=True)
        engine = Engine(HashRunner(8), limits())
        engine.add(Sequence(0, (prompt % 50, prompt), SamplingParams(), max_tokens=12, constraint=FakeGrammar()))
        steps = 0
        while engine.scheduler.busy:
            engine.step()
            steps += 1
        assert engine.texts[0] == expected
        assert engine.finished[0] == ("stop" if expected[-1] == 0 else "length")
        forced = sum(last % 7 in (3, 4) for last in expected[:-1])
        assert steps == len(expected) - forced
        assert engine.scheduler.counters.generated_tokens == len(expected)


def test_each_of_several_tokens_has_its_score() -> None:
    params = SamplingParams(logprobs=0, ignore_eos=True)
    from_one = Engine(HashRunner(8), limits(draft_tokens=4), Guesser(8), AnyPace())
    from_one.submit([5, 6], 60, params)
    several = 0
    while from_one.scheduler.busy:
        for output in from_one.step():
            assert output.scores is not None
            assert tuple(-score.logprob for score in output.scores) == output.tokens
            several += len(output.tokens) > 1
    assert several > 5


def test_a_child_needs_its_parents_prompt_and_salt() -> None:
    engine = Engine(HashRunner(8), limits())
    engine.submit([1, 2], 5)
    with pytest.raises(ValueError, match="parent"):
        engine.scheduler.submit(Sequence(1, (1, 3), FREE, max_tokens=5), 0.0, parent=0)
    with pytest.raises(ValueError, match="parent"):
        engine.scheduler.submit(Sequence(1, (1, 2), FREE, max_tokens=5, share=Share(salt="x")), 0.0, parent=0)
