"""The scheduler under arbitrary arrivals, cancels and scarcity: no token lost, repeated or mixed up, no block leaked.

The runner is a fake whose next token is a hash of the whole context *as it reads it from the KV blocks*: a block given
to two sequences, freed too early or computed in the wrong place changes the text.
"""

import hashlib

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from headgate.core.errors import BadCall, Overloaded
from headgate.engine.blocks import BlockPool
from headgate.engine.plan import Masks, SampleSpec, SamplingParams, StepPlan, StepResult
from headgate.engine.sequence import MOVES, Sequence, State
from tests.engine.drive import Engine, limits

END = 0


def next_token(context: list[int]) -> int:
    digest = hashlib.blake2b(bytes(str(context), "ascii"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % 50


def expected_text(prompt: list[int], max_tokens: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + max_tokens:
        tokens.append(next_token(tokens))
        if tokens[-1] == END:
            break
    return tokens[len(prompt) :]


class HashRunner:
    """Keeps token ids where a real runner keeps keys and values."""

    def __init__(self, block_size: int) -> None:
        self._size = block_size
        self._cache: dict[tuple[int, int], int] = {}

    def forward(self, plan: StepPlan) -> list[list[int]]:
        written: set[tuple[int, int]] = set()
        for part in plan.slices:
            for offset, token in enumerate(part.tokens):
                at = part.start + offset
                place = (part.table[at // self._size], at % self._size)
                assert place[0] != 0
                assert place not in written
                written.add(place)
                self._cache[place] = token
        contexts = []
        for part in plan.slices:
            if part.wants:
                end = part.start + len(part.tokens)
                contexts.append([self._cache[part.table[at // self._size], at % self._size] for at in range(end)])
        return contexts

    def sample(self, logits: list[list[int]], samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
        assert len(logits) == len(samples) == len(masks)
        return StepResult(tuple((next_token(context),) for context in logits), (None,) * len(logits))


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(
        blocks=st.integers(4, 30), size=st.integers(1, 5), budget=st.integers(1, 20), sequences=st.integers(1, 6)
    )
    def build(self, blocks: int, size: int, budget: int, sequences: int) -> None:
        self.size = limits(
            blocks=blocks, block_size=size, max_batch_tokens=budget, max_sequences=sequences, max_waiting=10
        )
        self.engine = Engine(HashRunner(size), self.size)
        self.asked: dict[int, tuple[list[int], int]] = {}
        self.cancelled: set[int] = set()

    @rule(prompt=st.lists(st.integers(1, 49), min_size=1, max_size=40), max_tokens=st.integers(1, 30))
    def submit(self, prompt: list[int], max_tokens: int) -> None:
        params = SamplingParams(stop_ids=(END,))
        try:
            key = self.engine.submit(prompt, max_tokens, params)
        except BadCall:
            assert len(prompt) + max_tokens > self.size.longest
        except Overloaded:
            scheduler = self.engine.scheduler
            assert scheduler.running + scheduler.waiting >= self.size.max_sequences + self.size.max_waiting
        else:
            self.asked[key] = (prompt, max_tokens)

    @rule(count=st.integers(1, 15))
    def steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.asked)))
        if self.engine.scheduler.cancel(key):
            self.cancelled.add(key)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel_while_a_step_runs(self, data: st.DataObject) -> None:
        plan = self.engine.scheduler.plan(0.0)
        key = data.draw(st.sampled_from(sorted(self.asked)))
        if self.engine.scheduler.cancel(key):
            self.cancelled.add(key)
        if plan is not None:
            logits, masks = self.engine.runner.forward(plan), (None,) * len(plan.samples)
            result = self.engine.runner.sample(logits, plan.samples, masks)
            for output in self.engine.scheduler.apply(plan, result, 0.0):
                assert output.key != key
                self.engine.texts[output.key].extend(output.tokens)
                if output.finish is not None:
                    self.engine.finished[output.key] = output.finish

    @invariant()
    def texts_are_right_so_far(self) -> None:
        for key, (prompt, max_tokens) in getattr(self, "asked", {}).items():
            text, expected = self.engine.texts[key], expected_text(prompt, max_tokens)
            assert text == expected[: len(text)]
            if key in self.engine.finished:
                assert key not in self.cancelled
                assert text == expected
                assert self.engine.finished[key] == ("stop" if text[-1] == END else "length")

    @invariant()
    def blocks_add_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        pool = self.engine.scheduler.pool
        assert pool.used + pool.cached + pool.free == pool.total
        references = sum(pool.references(block) for block in range(1, pool.total + 1))
        assert references >= pool.used
        if not self.engine.scheduler.busy:
            assert pool.used == 0

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.engine.scheduler.busy:
                break
            self.engine.step()
        self.texts_are_right_so_far()
        self.blocks_add_up()
        assert set(self.engine.finished) | self.cancelled == set(self.asked)
        assert self.engine.scheduler.pool.used == 0


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def test_no_token_is_lost_and_no_block_leaks_whatever_happens() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=CHECKS),
    )


@pytest.mark.prove
def test_no_token_is_lost_and_no_block_leaks_in_thousands_of_histories() -> None:
    run_state_machine_as_test(
        SchedulerMachine,
        settings=settings(max_examples=3000, stateful_step_count=60, deadline=None, suppress_health_check=CHECKS),
    )


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
        masks = engine.scheduler.masks(plan)
        engine.scheduler.apply(plan, engine.runner.sample(engine.runner.forward(plan), plan.samples, masks), 0.0)


def test_first_come_is_first_served() -> None:
    engine = Engine(HashRunner(8), limits(max_sequences=1))
    for _ in range(5):
        engine.submit([3, 4], 3, SamplingParams(ignore_eos=True))
    engine.run()
    assert list(engine.finished) == [0, 1, 2, 3, 4]


def test_the_newest_is_preempted_and_the_oldest_never() -> None:
    engine = Engine(HashRunner(1), limits(blocks=40, block_size=1, max_batch_tokens=64))
    for _ in range(4):
        engine.submit([5] * 8, 30, SamplingParams(ignore_eos=True))
    engine.run()
    assert engine.scheduler.counters.preemptions > 0
    assert next(iter(engine.finished)) == 0
    assert engine.scheduler.counters.prompt_tokens == 32
    assert engine.scheduler.counters.generated_tokens == 120


def test_a_freed_block_cannot_be_used_or_freed_again() -> None:
    pool = BlockPool(3, 4)
    taken = pool.take(2)
    assert taken is not None
    pool.share(taken)
    pool.release(taken)
    assert pool.used == 2
    pool.release(taken)
    assert pool.used == 0
    with pytest.raises(RuntimeError, match="after it was freed"):
        pool.release(taken)
    with pytest.raises(RuntimeError, match="after it was freed"):
        pool.share(taken)
    assert pool.take(4) is None
    assert pool.free == 3
