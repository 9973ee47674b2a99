"""A draft model follows the target through prompts, shared prefixes, forks, preemption and pauses.

Where draft and target are the same model, every proposed token must be right: a single key or value that the draft
took from the wrong place, or never computed, would show.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headgate.engine.limits import Limits
from headgate.engine.plan import SampleSpec, SamplingParams, StepPlan, Wanted
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.sampling.sampler import draft
from headgate.engine.scheduling.sequence import Sequence
from headgate.engine.speculation.draft_model import CATCH_UP, DraftModel
from tests.engine import tiny
from tests.engine.drive import Engine, limits, numpy_runner

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


class Asking:
    """Always asks for drafts of the same length, or for none while `off`; remembers how they did."""

    def __init__(self, length: int) -> None:
        self._length = length
        self.off = False
        self.proposed = self.accepted = 0

    def length(self, key: int) -> int:
        return 0 if self.off else self._length

    def result(self, key: int, proposed: int, accepted: int) -> None:
        self.proposed += proposed
        self.accepted += accepted

    def forget(self, key: int) -> None:
        pass

    def took(self, sequences: int, proposed: int, seconds: float) -> None:
        pass


class Counting:
    """A runner that counts the tokens of its largest plan."""

    def __init__(self, runner: NumpyRunner) -> None:
        self._runner = runner
        self.largest = 0

    def forward(self, plan: StepPlan) -> np.ndarray:
        self.largest = max(self.largest, plan.tokens)
        return self._runner.forward(plan)

    sample = NumpyRunner.sample


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("target")
    tiny.write(made)
    return made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("draft")
    tiny.write(made, tiny.config(num_hidden_layers=1), seed=5)
    return made


def proposer(folder: Path, size: Limits, busy: int = 8) -> DraftModel:
    draw = partial(draft, vocabulary=size.vocabulary)
    return DraftModel(numpy_runner(folder, size), draw, blocks=size.blocks, block_size=size.block_size, busy=busy)


def engines(folder: Path, drafting: Path, *, length: int = 4, busy: int = 8, **changes: int) -> tuple[Engine, Asking]:
    size = limits(draft_tokens=8, draft_busy=busy, **changes)
    asking = Asking(length)
    return Engine(numpy_runner(folder, size), size, proposer(drafting, size, busy), asking), asking


def prompt(length: int, seed: int = 0) -> list[int]:
    tokens: list[int] = np.random.default_rng(seed).integers(3, 97, length).tolist()
    return tokens


def test_the_same_model_is_always_right_and_saves_the_steps(folder: Path) -> None:
    engine, asking = engines(folder, folder)
    engine.submit(prompt(20), 41, GREEDY)
    steps = 0
    while engine.scheduler.busy:
        engine.step()
        steps += 1
    assert asking.accepted == asking.proposed == 32
    assert steps == 1 + 8
    plain = Engine(numpy_runner(folder, limits()), limits())
    plain.submit(prompt(20), 41, GREEDY)
    assert engine.texts == plain.run()


def test_it_follows_chunks_of_prompts_and_several_sequences(folder: Path) -> None:
    engine, asking = engines(folder, folder, length=3)
    for at, length in enumerate((1, 9, 33, 70, 100)):
        engine.submit(prompt(length, at), 20 + 7 * at, GREEDY)
    engine.run()
    assert asking.accepted == asking.proposed > 60


def test_prompts_that_begin_alike_are_read_once(folder: Path) -> None:
    engine, asking = engines(folder, folder)
    begin = prompt(43)
    engine.submit(begin, 21, GREEDY)
    engine.run()
    for at in range(3):
        engine.submit(begin[:40] + prompt(5, at + 1), 21, GREEDY)
    engine.submit(begin + engine.texts[0][:-1] + prompt(3), 21, GREEDY)
    engine.run()
    assert engine.cached[1] == 40
    assert asking.accepted == asking.proposed > 60


def test_choices_of_one_prompt_part_without_disturbing_each_other(folder: Path) -> None:
    engine, asking = engines(folder, folder)
    params = SamplingParams(seed=8, seeded=True, ignore_eos=True)
    for choice in range(4):
        engine.add(
            Sequence(choice, tuple(prompt(21)), params, max_tokens=30, choice=choice), parent=0 if choice else None
        )
    engine.run()
    assert len({tuple(text) for text in engine.texts.values()}) == 4
    assert asking.accepted >= asking.proposed * 0.97  # a copied block is computed again one step later
    plain = Engine(numpy_runner(folder, limits()), limits())
    for choice in range(4):
        plain.submit(prompt(21), 30, params, choice)
    assert engine.texts == plain.run()


def test_sequences_that_had_to_go_come_back(folder: Path) -> None:
    engine, asking = engines(folder, folder, blocks=14, max_batch_tokens=64)
    for at in range(4):
        engine.submit(prompt(15, at), 40, GREEDY)
    engine.run()
    assert engine.scheduler.counters.preemptions > 0
    assert asking.accepted == asking.proposed > 0


def test_after_a_pause_it_catches_up_a_part_at_a_time(folder: Path) -> None:
    size = limits(draft_tokens=8, max_batch_tokens=64)
    asking = Asking(4)
    counting = Counting(numpy_runner(folder, size))
    model = DraftModel(counting, partial(draft, vocabulary=97), blocks=64, block_size=8, busy=8)
    engine = Engine(numpy_runner(folder, size), size, model, asking)
    engine.submit(prompt(10), 400, GREEDY)
    for on in (5, 300, 5):
        asking.off = not asking.off
        for _ in range(on):
            engine.step()
            if not engine.scheduler.busy:
                break
    asking.off = False
    engine.run()
    assert asking.accepted == asking.proposed > 20
    assert counting.largest <= CATCH_UP


def test_prompts_read_while_it_was_busy_elsewhere_are_read_later(folder: Path) -> None:
    engine, asking = engines(folder, folder, busy=2)
    for at in range(3):
        engine.submit(prompt(30, at), 12 + 20 * at, GREEDY)
    engine.run()
    assert asking.accepted == asking.proposed > 10


def test_another_model_changes_no_greedy_or_seeded_text(folder: Path, other: Path) -> None:
    params = [GREEDY, SamplingParams(seed=3, seeded=True, top_p=0.9), SamplingParams(temperature=0.0, stop_ids=(5, 9))]
    engine, asking = engines(folder, other)
    plain = Engine(numpy_runner(folder, limits()), limits())
    for at, one in enumerate(params * 2):
        engine.submit(prompt(12, at), 30, one)
        plain.submit(prompt(12, at), 30, one)
    assert engine.run() == plain.run()
    assert asking.accepted < asking.proposed


def test_nothing_is_proposed_after_an_end(folder: Path) -> None:
    size = limits()
    text = Engine(numpy_runner(folder, size), size)
    text.submit(prompt(12), 6, GREEDY)
    tokens = text.run()[0]
    params = SamplingParams(temperature=0.0, stop_ids=(tokens[1],))
    wanted = Wanted(7, prompt(12), tuple(range(1, 5)), 5, SampleSpec(params))
    (made,) = proposer(folder, size).propose([wanted])
    assert made is not None
    assert made.tokens == tuple(tokens[: tokens.index(tokens[1]) + 1])


def test_a_draft_model_of_a_smaller_or_larger_vocabulary_is_cut_to_the_targets() -> None:
    rows = np.array([[0.0, 1.0, 5.0, 9.0]], dtype=np.float32)
    spec = SampleSpec(SamplingParams(seed=1, logit_bias={5: 3.0}))
    ((token, weights),) = draft(rows, [SampleSpec(SamplingParams(seed=1))], 3)
    assert token < 3
    assert weights is not None
    assert len(weights) == 3
    ((token, weights),) = draft(rows, [spec], 6)
    assert weights is not None
    assert weights[4:].tolist() == [0.0, 0.0]
    assert weights.sum() == pytest.approx(1.0)
