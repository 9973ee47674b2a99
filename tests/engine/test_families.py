"""Every family and option computes what the plain float64 pass computes, however it is cut and whoever is beside it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import read_weights
from headgate.engine.plan import Slice, StepPlan
from headgate.engine.runners.numpy_runner import NumpyRunner
from tests.engine import families, reference
from tests.engine.families import FAMILIES, Sequence, model, relative, run, runner, tables


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_references_for_any_cut_of_the_prompt(name: str, tmp_path: Path) -> None:
    shape, tensors = model(tmp_path, name)
    tokens = np.random.default_rng(1).integers(0, 97, 70).tolist()
    expected = reference.logits(shape, tensors, tokens)
    whole = runner(tmp_path)
    table = tables(1, 9)[0]
    assert relative(run(whole, Slice(0, tuple(tokens), 0, table, 70)), expected) < 1e-3
    for cuts in ([1] * 70, [7, 20, 1, 3, 39]):
        sequence = Sequence(0, tokens, table)
        rows = [run(whole, sequence.slice(count, count)) for count in cuts]
        assert relative(np.concatenate(rows), expected) < 1e-3


@pytest.mark.parametrize("name", ["llama", "qwen2, windows in the upper layers", "qwen3", "mistral, window"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_crowd_of_prompts_decodes_and_drafts_is_computed_as_each_alone(
    name: str, threads: int, tmp_path: Path
) -> None:
    shape, tensors = model(tmp_path, name, vocab_size=300, intermediate_size=200)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, 300, length).tolist() for length in (90, 75, 33, 12, 64)]
    expected = [reference.logits(shape, tensors, prompt) for prompt in prompts]
    crowd = [
        Sequence(key, prompt, table) for key, (prompt, table) in enumerate(zip(prompts, tables(5, 12), strict=True))
    ]
    shared = runner(tmp_path, threads=threads)
    while any(each.done < len(each.tokens) for each in crowd):
        alive = [each for each in crowd if each.done < len(each.tokens)]
        starts = [each.done for each in alive]
        counts = rng.choice([1, 1, 1, 4, 5, 5, 30], len(alive)).tolist()
        slices = [each.slice(count, count) for each, count in zip(alive, counts, strict=True)]
        rows = run(shared, *slices)
        right = [expected[each.key][start : each.done] for each, start in zip(alive, starts, strict=True)]
        assert relative(rows, np.concatenate(right)) < 1e-3
    shared.close()


def test_only_wanted_rows_are_given_in_the_order_of_the_slices(tmp_path: Path) -> None:
    shape, tensors = model(tmp_path, "llama")
    tokens = list(range(20))
    expected = reference.logits(shape, tensors, tokens)
    one, two, three = (Sequence(key, tokens, table) for key, table in enumerate(tables(3, 3)))
    rows = run(runner(tmp_path), one.slice(10, 0), two.slice(20, 3), three.slice(6, 1))
    assert relative(rows, expected[[17, 18, 19, 5]]) < 1e-3
    assert run(runner(tmp_path), Slice(0, (1, 2), 0, (1,), 0)).shape == (0, 97)


def test_a_rejected_draft_leaves_no_trace(tmp_path: Path) -> None:
    shape, tensors = model(tmp_path, "llama")
    tokens = np.random.default_rng(5).integers(0, 97, 40).tolist()
    expected = reference.logits(shape, tensors, tokens)
    table = tables(1, 6)[0]
    one = runner(tmp_path)
    run(one, Slice(0, tuple(tokens[:21]), 0, table[:3], 1))
    rows = run(one, Slice(0, (tokens[21], 3, 3, 3, 3), 21, table[:4], 5))
    assert relative(rows[0], expected[21]) < 1e-3
    rows = run(one, Slice(0, tuple(tokens[22:40]), 22, table[:5], 18))
    assert relative(rows, expected[22:40]) < 1e-3


def test_blocks_are_copied_in_order_before_anything_is_written(tmp_path: Path) -> None:
    shape, tensors = model(tmp_path, "llama")
    tokens = np.random.default_rng(6).integers(0, 97, 12).tolist()
    one = runner(tmp_path)
    run(one, Slice(0, tuple(tokens), 0, (4, 5), 1))
    forks = (Slice(1, (7,), 12, (4, 9), 1), Slice(2, (8,), 12, (4, 5), 1), Slice(3, (9,), 12, (4, 11), 1))
    rows = one.forward(StepPlan(0, forks, (), copies=((5, 9), (9, 11))))
    expected = [reference.logits(shape, tensors, [*tokens, last])[-1] for last in (7, 8, 9)]
    assert relative(rows, np.array(expected)) < 1e-3


def test_what_a_window_has_left_behind_is_not_looked_at(tmp_path: Path) -> None:
    model(tmp_path, "mistral, window of one")
    one = runner(tmp_path)
    run(one, Slice(0, tuple(range(30)), 0, (1, 2, 3, 4), 1))
    seen = run(one, Slice(0, (5,), 30, (1, 2, 3, 4), 1))
    forgotten = run(runner(tmp_path), Slice(0, (5,), 30, (1, 2, 3, 4), 1))
    assert relative(seen, forgotten) < 1e-5


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_shapes_agree_with_the_reference(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    name = data.draw(st.sampled_from(sorted(FAMILIES)))
    kv_heads = data.draw(st.integers(1, 3))
    size = data.draw(st.sampled_from((4, 8, 14, 64)))
    folder = tmp_path_factory.mktemp("model")
    shape, tensors = model(
        folder,
        name,
        vocab_size=data.draw(st.integers(3, 200)),
        hidden_size=data.draw(st.integers(2, 90)),
        intermediate_size=data.draw(st.integers(1, 160)),
        num_key_value_heads=kv_heads,
        num_attention_heads=kv_heads * data.draw(st.integers(1, 4)),
        head_dim=size,
        tie_word_embeddings=data.draw(st.booleans()),
    )
    tokens = data.draw(st.lists(st.integers(0, shape["vocab_size"] - 1), min_size=1, max_size=40))
    block_size = data.draw(st.integers(1, 16))
    one = runner(folder, block_size=block_size, threads=data.draw(st.integers(1, 2)))
    sequence = Sequence(0, tokens, tables(1, 40)[0])
    rows = []
    while sequence.done < len(tokens):
        count = data.draw(st.integers(1, 25))
        rows.append(run(one, sequence.slice(count, count, block_size)))
    one.close()
    assert relative(np.concatenate(rows), reference.logits(shape, tensors, tokens)) < 1e-3


def test_runners_share_weights_but_no_keys(tmp_path: Path) -> None:
    model(tmp_path, "llama")
    spec = read_spec(tmp_path)
    weights = read_weights(tmp_path, spec)
    one, two = (NumpyRunner(spec, weights, blocks=4, block_size=8) for _ in range(2))
    first = run(one, Slice(0, (1, 2, 3), 0, (1,), 1))
    run(two, Slice(0, (9, 9, 9), 0, (1,), 1))
    again = run(one, Slice(0, (4,), 3, (1,), 1))
    assert relative(again, run(families.runner(tmp_path), Slice(0, (1, 2, 3, 4), 0, (1,), 1))) < 1e-5
    assert relative(first, again) > 1e-3
