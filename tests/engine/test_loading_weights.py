"""Reading weights: checked before memory is asked for, piece by piece, with progress; and the matrices they become."""

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.matrix import Matrix, shares
from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import footprint, read_weights
from headgate.engine.runners.team import Team
from tests.engine import tiny

MIB = 2**20


def configured(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(tiny.config(**changes)))


def test_progress_is_told_up_to_all_bytes_of_the_file(tmp_path: Path) -> None:
    tiny.write(tmp_path, dtype="BF16")
    told: list[tuple[int, int]] = []
    read_weights(tmp_path, read_spec(tmp_path), lambda done, total: told.append((done, total)))
    done = [each for each, _ in told]
    assert done == sorted(done)
    assert told[-1][0] == told[-1][1] == footprint(tmp_path).weights // 2


@pytest.mark.parametrize(
    "changes",
    [{"vocab_size": 2**24}, {"hidden_size": 2**20}, {"intermediate_size": 2**20}, {"num_hidden_layers": 4096}],
    ids=str,
)
def test_sizes_that_the_tensors_do_not_have_are_refused_before_memory_is_asked_for(
    changes: dict[str, int], tmp_path: Path
) -> None:
    tiny.write(tmp_path)
    configured(tmp_path, **changes)
    spec = read_spec(tmp_path)
    tracemalloc.start()
    with pytest.raises(ModelFolderError, match=r"config\.json (says|calls for)"):
        read_weights(tmp_path, spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * MIB


def test_a_cut_file_and_one_that_holds_no_floats_are_refused(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFolderError, match=r"model\.safetensors: the tensors end at"):
        read_weights(tmp_path, read_spec(tmp_path))
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    header["model.norm.weight"]["dtype"] = "I32"
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + whole[8 + length :])
    with pytest.raises(ModelFolderError, match=r"'model\.norm\.weight' is I32; the engine reads BF16, F16, F32"):
        read_weights(tmp_path, read_spec(tmp_path))


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "gone.safetensors"}}))
    with pytest.raises(ModelFolderError, match=r"gone\.safetensors: No such file"):
        read_weights(tmp_path, read_spec(tmp_path))


def test_reading_takes_no_more_memory_than_the_weights_and_a_piece(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.config(vocab_size=60_000, hidden_size=256), dtype="BF16")
    spec = read_spec(tmp_path)
    need = footprint(spec).weights
    assert need > 58 * MIB
    tracemalloc.start()
    weights = read_weights(tmp_path, spec)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert weights.embeddings is None
    assert peak < need + 20 * MIB


def test_a_footprint_is_that_of_the_matrices(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.config(vocab_size=640, hidden_size=64, intermediate_size=128))
    spec = read_spec(tmp_path)
    weights = read_weights(tmp_path, spec)
    layers = sum(
        layer.qkv.nbytes + layer.attention_out.nbytes + sum(s.gate_up.nbytes + s.down.nbytes for s in layer.mlp)
        for layer in weights.layers
    )
    found = footprint(tmp_path)
    assert found.weights == pytest.approx(layers + weights.head[0].nbytes, rel=0.01)
    assert found.total(10) == found.weights + 10 * 2 * 2 * 32 * 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 300), st.integers(1, 3000), st.integers(1, 70), st.lists(st.integers(0, 299), max_size=4))
def test_a_matrix_in_blocks_multiplies_as_a_whole_one(outputs: int, inputs: int, rows: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(outputs * 3001 + inputs)
    whole = rng.standard_normal((outputs, inputs), dtype=np.float32)
    x = rng.standard_normal((rows, inputs), dtype=np.float32)
    matrix = Matrix(outputs, inputs, np.split(whole, sorted(cut for cut in cuts if cut < outputs)))
    expected = x.astype(np.float64) @ whole.T.astype(np.float64)
    assert matrix(x).shape == expected.shape
    assert np.abs(matrix(x) - expected).max() < 1e-4 * inputs**0.5 * 10
    chosen = rng.integers(0, outputs, 5)
    assert np.array_equal(matrix.columns(chosen), whole[chosen])


@given(st.integers(1, 100_000), st.integers(1, 16))
def test_shares_cover_everything_once_in_whole_blocks(size: int, workers: int) -> None:
    found = shares(size, workers)
    assert [begin for begin, _ in found] == [0, *(end for _, end in found[:-1])]
    assert found[-1][1] == size
    assert all(begin < end and begin % 64 == 0 for begin, end in found)
    assert len(found) <= workers


def test_a_team_gives_results_in_order_and_raises_what_a_share_raised() -> None:
    team: Team[int, float] = Team(3)
    assert team.run(lambda share: share * 2.0, [1, 2, 3, 4]) == [2.0, 4.0, 6.0, 8.0]
    assert team.run(lambda share: share * 2.0, [1, 2]) == [2.0, 4.0]
    for bad in range(4):
        with pytest.raises(ZeroDivisionError):
            team.run(lambda share: 1 / share, [0 if index == bad else 1 for index in range(4)])
    assert team.run(lambda share: 1 / share, [1, 2, 4, 5]) == [1.0, 0.5, 0.25, 0.2]
    team.close()
