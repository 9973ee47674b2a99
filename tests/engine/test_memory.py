"""What a model is counted with, and who gives way: never one that works, never more than necessary."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.errors import Overloaded
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.memory import PROCESS_MIB, RESTED_S, Occupant, footprint_mib, make_room
from headgate.engine.settings import EngineSettings, Speculation
from tests.engine import tiny


def occupants() -> st.SearchStrategy[list[Occupant]]:
    one = st.builds(
        Occupant,
        name=st.text("abcdefgh", min_size=1, max_size=3),
        mib=st.integers(0, 100),
        idle_s=st.sampled_from([0.0, 0.5, RESTED_S, 2.0, 3.0, 10.0]),
        stays=st.booleans(),
    )
    return st.lists(one, max_size=6, unique_by=lambda one: one.name)


@given(awake=occupants(), need=st.integers(0, 150), cap=st.integers(1, 400))
def test_room_is_made_by_those_who_rest_the_least_recently_used_first(
    awake: list[Occupant], need: int, cap: int
) -> None:
    movable = [one for one in awake if not one.stays and one.idle_s >= RESTED_S]
    free = cap - sum(one.mib for one in awake)
    if free + sum(one.mib for one in movable) < need:
        with pytest.raises(Overloaded, match=f"needs {need} MiB") as refused:
            make_room("new", need, cap, awake)
        assert refused.value.code == "engine_memory_full"
        return
    leaving = make_room("new", need, cap, awake)
    gone = [next(one for one in movable if one.name == name) for name in leaving]
    assert free + sum(one.mib for one in gone) >= need
    assert not gone or free + sum(one.mib for one in gone[:-1]) < need, "no more than necessary"
    kept = [one for one in movable if one not in gone]
    assert all(one.idle_s >= other.idle_s for one in gone for other in kept)


def test_without_a_limit_there_is_always_room() -> None:
    assert make_room("new", 10**9, 0, [Occupant("a", 10**9, 0.0, True)]) == []


def test_a_model_is_counted_with_its_weights_as_floats_and_the_cache_it_can_fill(tmp_path: Path) -> None:
    tensors = tiny.write(tmp_path)
    weights = sum(tensor.size for tensor in tensors.values()) * 4
    roomy = footprint_mib(tmp_path, EngineSettings(kv_cache_mib=4096, max_sequences=64))
    kv = 64 * 512 * 2 * 2 * 2 * 8 * 4  # sequences, context, keys and values, layers, heads, their size, floats
    assert PROCESS_MIB < roomy <= PROCESS_MIB + (weights + kv) / 2**20 + 1
    assert footprint_mib(tmp_path, EngineSettings(kv_cache_mib=1)) == PROCESS_MIB + 2
    drafting = Speculation(method="draft", model=str(tmp_path))
    assert footprint_mib(tmp_path, EngineSettings(kv_cache_mib=1, speculation=drafting)) == PROCESS_MIB + 3
    (tmp_path / "config.json").write_text("{}")
    assert footprint_mib(tmp_path, EngineSettings(kv_cache_mib=4096)) == PROCESS_MIB + 1, "it keeps no cache we know of"


HEADERS = [
    b"",
    b"\xff" * 8,
    b"\xff" * 20,
    (2**40).to_bytes(8, "little") + b"{}",
    (2).to_bytes(8, "little") + b"[]",
    (40).to_bytes(8, "little") + json.dumps({"a": {"shape": ["x"], "dtype": "F32"}}).encode().ljust(40),
    (40).to_bytes(8, "little") + json.dumps({"a": {"shape": [-1]}}).encode().ljust(40),
]


@pytest.mark.parametrize("header", HEADERS, ids=[header[:12].hex() or "empty" for header in HEADERS])
def test_weights_that_cannot_be_sized_are_named(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(header)
    with pytest.raises(ModelFolderError, match=r"model\.safetensors"):
        footprint_mib(tmp_path, EngineSettings())


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no \*\.safetensors"):
        footprint_mib(tmp_path, EngineSettings())
