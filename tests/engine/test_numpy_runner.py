"""The NumPy runner computes what a plain float64 loop computes, alone and in company."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headgate.engine.plan import SamplingParams, Slice, StepPlan
from tests.engine import reference, tiny
from tests.engine.drive import Engine, limits, numpy_runner

SHAPES: dict[str, dict[str, Any]] = {
    "grouped queries, tied": {},
    "multi-head, untied": {"num_key_value_heads": 4, "tie_word_embeddings": False},
    "one kv head, bias, own head size": {"num_key_value_heads": 1, "attention_bias": True, "head_dim": 6},
}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_agree_with_a_plain_float64_forward(name: str, tmp_path: Path) -> None:
    shape = tiny.config(**SHAPES[name])
    tensors = tiny.write(tmp_path, shape)
    tokens = np.random.default_rng(1).integers(0, 97, 45).tolist()
    expected = reference.logits(shape, tensors, tokens)
    size = limits()
    for cuts in ([45], [1] * 45, [7, 20, 1, 1, 16]):
        runner = numpy_runner(tmp_path, size)
        table, start = tuple(range(3, 9)), 0
        for count in cuts:
            end = start + count
            part = Slice(0, tuple(tokens[start:end]), start, table[: -(-end // 8)], 1)
            row = runner.forward(StepPlan(0, (part,), ()))[0]
            error = np.abs(row - expected[end - 1]).max() / np.abs(expected[end - 1]).max()
            assert error < 1e-3
            start = end


def test_greedy_text_is_the_references_for_120_tokens_alone_and_in_a_crowd(tmp_path: Path) -> None:
    tensors = tiny.write(tmp_path)
    rng = np.random.default_rng(2)
    prompts = [rng.integers(0, 97, length).tolist() for length in (1, 5, 33, 60)]
    size = limits(blocks=120, max_batch_tokens=40)
    engine = Engine(numpy_runner(tmp_path, size), size)
    for prompt in prompts:
        engine.submit(prompt, 120)
        engine.step()
    texts = engine.run()
    for key, prompt in enumerate(prompts):
        assert texts[key] == reference.greedy(tiny.CONFIG, tensors, prompt, 120)
    assert engine.scheduler.pool.used == 0


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_half_precision_files_are_read_as_the_numbers_they_hold(dtype: str, tmp_path: Path) -> None:
    tensors = tiny.write(tmp_path, dtype=dtype)
    if dtype == "F16":
        held = {name: value.astype(np.float16).astype(np.float32) for name, value in tensors.items()}
    else:
        held = {n: (v.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for n, v in tensors.items()}
    size = limits()
    engine = Engine(numpy_runner(tmp_path, size), size)
    engine.submit([5, 6, 7], 30)
    assert engine.run()[0] == reference.greedy(tiny.CONFIG, held, [5, 6, 7], 30)


def test_a_seeded_text_is_the_same_alone_in_a_crowd_and_after_preemption(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    params = SamplingParams(temperature=1.0, top_k=20, seed=11)
    roomy, tight = limits(blocks=100), limits(blocks=22)
    alone = Engine(numpy_runner(tmp_path, roomy), roomy)
    alone.submit([9, 8, 7], 80, params)
    expected = alone.run()[0]
    for size in (roomy, tight):
        engine = Engine(numpy_runner(tmp_path, size), size)
        for other in range(3):
            engine.submit([other + 1] * (20 * other + 3), 60, SamplingParams(seed=other))
        key = engine.submit([9, 8, 7], 80, params)
        assert engine.run()[key] == expected
    assert engine.scheduler.counters.preemptions > 0
