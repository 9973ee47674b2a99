"""The scheduler under anything that can happen to it, as a hypothesis state machine: no token is lost, repeated or
mixed up, no block leaks, and what is indexed is what its digest says.
"""

from collections import Counter
from typing import Any, ClassVar

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headgate.core.errors import BadCall, Overloaded
from headgate.engine.limits import Limits
from headgate.engine.plan import SamplingParams, Share, StepPlan
from headgate.engine.scheduling.sequence import Sequence
from tests.engine.drive import Engine, limits
from tests.engine.machine_runner import END, AnyPace, FakeGrammar, Guesser, HashRunner, expected_text

HEADS: tuple[list[int], ...] = (
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    [1, 2, 3, 4, 9, 9, 9, 9, 9, 9],
    [],
)
"""Beginnings that prompts have in common."""

prompts = st.builds(
    lambda head, length, tail: (head[:length] + tail)[:40] or [1],
    st.sampled_from(HEADS),
    st.integers(0, 16),
    st.lists(st.integers(1, 49), max_size=24),
)
shares = st.builds(Share, st.sampled_from(["", "a", "b"]), st.sampled_from(["", "s"]), st.integers(-1, 2))


@st.composite
def sizes(draw: st.DrawFn) -> Limits:
    return limits(
        blocks=draw(st.integers(4, 30)),
        block_size=draw(st.integers(1, 5)),
        max_batch_tokens=draw(st.integers(1, 20)),
        max_sequences=draw(st.integers(1, 6)),
        max_waiting=10,
        step_s=draw(st.sampled_from([0.001, 1.0])),
        short_first=draw(st.booleans()),
        age_s=draw(st.sampled_from([0.01, 1.0])),
        prefix_cache=draw(st.integers(0, 3)) > 0,
        draft_tokens=draw(st.sampled_from([0, 1, 4])),
        draft_busy=draw(st.integers(1, 6)),
    )


class SchedulerMachine(RuleBasedStateMachine):
    seen: ClassVar[Counter[str]] = Counter()
    """What happened in all histories together."""

    @initialize(size=sizes())
    def build(self, size: Limits) -> None:
        self.size = size
        self.runner = HashRunner(size.block_size)
        self.engine = Engine(self.runner, size, Guesser(size.block_size), AnyPace())
        self.engine.step_s = 0.002
        self.scheduler = self.engine.scheduler
        self.expected: dict[int, list[int]] = {}
        self.prompts: dict[int, list[int]] = {}
        self.cancelled: set[int] = set()
        self.contents: dict[bytes, Any] = {}
        self.digests: dict[Any, set[bytes]] = {}

    @rule(
        prompt=prompts, max_tokens=st.integers(1, 30), share=shares, choices=st.integers(1, 4), form=st.integers(0, 5)
    )
    def submit(self, prompt: list[int], max_tokens: int, share: Share, choices: int, form: int) -> None:
        """`form`: 0 and 1 are held to the grammar, 1 and 2 ask for logprobs, 3 goes on past END."""
        parent: int | None = None
        for _ in range(choices):
            sequence = Sequence(
                self.engine.next_key,
                tuple(prompt),
                SamplingParams(stop_ids=(END,), logprobs=0 if form in (1, 2) else None, ignore_eos=form == 3),
                max_tokens=max_tokens,
                constraint=FakeGrammar() if form in (0, 1) else None,
                share=share,
            )
            try:
                self.engine.add(sequence, parent)
            except BadCall:
                assert len(prompt) + max_tokens > self.size.longest
                return
            except Overloaded:
                assert self.scheduler.running + self.scheduler.waiting >= self.size.max_sequences + 10
                return
            self.prompts[sequence.key] = prompt
            self.expected[sequence.key] = expected_text(prompt, max_tokens, constrained=form in (0, 1), stop=form != 3)
            parent = sequence.key if parent is None else parent

    @precondition(lambda self: self.engine.finished)
    @rule(data=st.data(), more=st.lists(st.integers(1, 49), min_size=1, max_size=5), share=shares)
    def answer(self, data: st.DataObject, more: list[int], share: Share) -> None:
        """The next turn of a conversation."""
        key = data.draw(st.sampled_from(sorted(self.engine.finished)))
        self.submit((self.prompts[key] + self.expected[key] + more)[:60], 8, share, 1, 4)

    @rule(count=st.integers(1, 15))
    def run_steps(self, count: int) -> None:
        for _ in range(count):
            plan = self.planned()
            if plan is not None:
                self.engine.compute(plan)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), midway=st.booleans())
    def cancel(self, data: st.DataObject, midway: bool) -> None:
        plan = self.planned() if midway else None
        key = data.draw(st.sampled_from(sorted(self.expected)))
        if self.scheduler.cancel(key):
            self.cancelled.add(key)
        if plan is not None:
            assert all(output.key != key for output in self.engine.compute(plan))

    @rule(seconds=st.sampled_from([0.005, 0.5, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.engine.now += seconds

    def planned(self) -> StepPlan | None:
        plan = self.scheduler.plan(self.engine.now)
        if plan is None:
            assert not self.scheduler.busy
            return None
        self.seen.update(steps=1, copies=len(plan.copies))
        assert plan.tokens <= self.size.max_batch_tokens
        assert len(plan.slices) <= self.size.max_sequences
        pool, samples = self.scheduler.pool, iter(plan.samples)
        for part in plan.slices:
            first, last = (
                part.start // self.size.block_size,
                (part.start + len(part.tokens) - 1) // self.size.block_size,
            )
            for block in part.table[first : last + 1]:
                assert pool.references(block) == 1
                assert pool.digest(block) is None
            if part.wants:
                assert next(samples).position == len(self.engine.texts[part.key])
        return plan

    @invariant()
    def texts_are_right_so_far(self) -> None:
        for key, expected in getattr(self, "expected", {}).items():
            text = self.engine.texts[key]
            assert text == expected[: len(text)]
            if key in self.engine.finished:
                assert key not in self.cancelled
                assert text == expected
            if key in self.engine.cached:
                assert 0 <= self.engine.cached[key] < len(self.prompts[key])

    @invariant()
    def blocks_add_up(self) -> None:
        if not hasattr(self, "engine"):
            return
        pool = self.scheduler.pool
        assert pool.free + pool.cached + pool.used == pool.total
        held = Counter(block for table in self.scheduler.tables() for block in table)
        for block in range(1, pool.total + 1):
            assert pool.references(block) == held[block]
            digest = pool.digest(block)
            if digest is not None:
                assert pool.find(digest) == block
                content = self.runner.block(block)
                assert self.contents.setdefault(digest, content) == content
                self.digests.setdefault(content, set()).add(digest)
                assert len(self.digests[content]) <= 2  # one for each salt
        if not self.scheduler.busy:
            assert pool.used == 0

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(20_000):
            if not self.scheduler.busy:
                break
            self.run_steps(1)
        self.texts_are_right_so_far()
        self.blocks_add_up()
        assert set(self.engine.finished) | self.cancelled == set(self.expected)
        assert self.scheduler.pool.used == 0
        assert self.scheduler.running == self.scheduler.waiting == 0
        self.seen.update(
            msgspec.structs.asdict(self.scheduler.counters) | {"steps": 0, "cancelled": len(self.cancelled)}
        )
