"""Model folders: what is damaged or unsupported is refused with the reason; nothing outside a tensor is ever read."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.rope import frequencies
from headgate.engine.models.safetensors import TensorFile
from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import Weights, read_weights
from tests.engine import tiny

SMALL = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, dtype=np.float32)}
WHOLE = tiny.encode(SMALL)
HEADER = json.loads(WHOLE[8 : 8 + struct.unpack("<Q", WHOLE[:8])[0]])


def opened(folder: Path, data: bytes) -> TensorFile:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return TensorFile(path)


def with_header(header: Any) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + b"\0" * 40


def test_tensors_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = opened(tmp_path, WHOLE)
    assert sorted(file) == ["a", "b"]
    for name, value in SMALL.items():
        assert np.array_equal(file.read(name), value)


FALSE_HEADERS: dict[str, Any] = {
    "overlapping ranges": HEADER | {"b": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]}},
    "a range beyond the file": HEADER | {"b": {"dtype": "F32", "shape": [400], "data_offsets": [24, 1624]}},
    "a size that is not the shape's": HEADER | {"b": {"dtype": "F32", "shape": [3], "data_offsets": [24, 40]}},
    "a range that runs backwards": HEADER | {"b": {"dtype": "F32", "shape": [4], "data_offsets": [40, 24]}},
    "a negative offset": HEADER | {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [-24, 0]}},
    "a negative size": HEADER | {"b": {"dtype": "F32", "shape": [-4], "data_offsets": [24, 40]}},
    "an unknown dtype": HEADER | {"b": {"dtype": "F31", "shape": [4], "data_offsets": [24, 40]}},
    "a gap": {"b": HEADER["b"]},
    "a size that overflows": HEADER | {"b": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [24, 40]}},
    "no object": [1, 2],
    "no JSON": b"{",
    "deep nesting": b"[" * 100_000,
}


@pytest.mark.parametrize("name", FALSE_HEADERS)
def test_a_false_header_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"model\.safetensors"):
        opened(tmp_path, with_header(FALSE_HEADERS[name]))


@pytest.mark.parametrize("data", [b"", b"\1", b"\xff" * 8, struct.pack("<Q", 2**63) + b"{}", WHOLE[:-1], WHOLE + b"\0"])
def test_a_file_of_the_wrong_length_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError):
        opened(tmp_path, data)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_right_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    raw = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    try:
        file = opened(tmp_path_factory.mktemp("mutated"), bytes(raw))
        for name in file:
            assert file.read(name).shape == file.shape(name)
    except ModelFolderError:
        pass


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "end token": ({"eos_token_id": [2, 5000]}, "outside of the vocabulary"),
    "architecture": ({"architectures": ["GPT2LMHeadModel"]}, "architecture"),
    "activation": ({"hidden_act": "gelu"}, "activation 'gelu'"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantised"),
    "layer types": ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention"]}, "layer_types"),
    "rope": ({"rope_scaling": {"type": "longrope", "factor": 4.0}}, "rope_type 'longrope'"),
    "rope factor": ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
    "rope word": ({"rope_scaling": {"type": "linear", "factor": "much"}}, r"rope_scaling: .*\$.factor"),
    "negative factor": ({"rope_scaling": {"type": "yarn", "factor": -4.0}}, r"rope_scaling: .*\$.factor"),
    "part of a head": ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    "two ropes": (
        {"rope_parameters": {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e5}}},
        "differ between types of layers",
    ),
    "theta": ({"rope_theta": -1.0}, "rope_theta|theta"),
    "not a number": ({"rms_norm_eps": math.nan}, "no JSON"),
    "beyond numbers": ({"rms_norm_eps": math.inf}, "no JSON"),
    "huge": ({"hidden_size": 10**12}, r"\$.hidden_size"),
    "layers without end": ({"num_hidden_layers": 10**9}, r"\$.num_hidden_layers"),
    "negative": ({"intermediate_size": -48}, r"\$.intermediate_size"),
    "nothing": ({"hidden_size": None}, r"\$.hidden_size"),
    "odd heads": ({"head_dim": 7}, "head_dim"),
    "heads": ({"num_key_value_heads": 3}, "cannot share"),
    "sizes": ({"hidden_size": 0}, r"\$.hidden_size"),
    "types": ({"vocab_size": "many"}, "vocab_size"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_unsupported_is_named(name: str, tmp_path: Path) -> None:
    changes, message = UNSUPPORTED[name]
    (tmp_path / "config.json").write_text(json.dumps(tiny.config(**changes)))
    with pytest.raises(ModelFolderError, match=message):
        read_spec(tmp_path)


def test_a_missing_or_misshapen_tensor_is_named(tmp_path: Path) -> None:
    made = tiny.write(tmp_path)
    spec = read_spec(tmp_path)
    lacking = {name: value for name, value in made.items() if name != "model.norm.weight"}
    (tmp_path / "model.safetensors").write_bytes(tiny.encode(lacking))
    with pytest.raises(ModelFolderError, match=r"no tensor 'model\.norm\.weight'"):
        read_weights(tmp_path, spec)
    (tmp_path / "model.safetensors").write_bytes(tiny.encode(made | {"model.norm.weight": np.ones(5)}))
    with pytest.raises(ModelFolderError, match=r"'model\.norm\.weight' has shape \(5,\)"):
        read_weights(tmp_path, spec)


def same(one: Weights, other: Weights) -> bool:
    x = np.random.default_rng(0).standard_normal((3, 32), dtype=np.float32)
    heads = np.array_equal(one.head[0](x), other.head[0](x))
    return heads and all(np.array_equal(a.qkv(x), b.qkv(x)) for a, b in zip(one.layers, other.layers, strict=True))


def test_sharded_weights_are_read_through_their_index(tmp_path: Path) -> None:
    made = tiny.write(tmp_path)
    spec = read_spec(tmp_path)
    whole = read_weights(tmp_path, spec)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(made)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        (tmp_path / file).write_bytes(tiny.encode({name: made[name] for name in part}))
        index |= dict.fromkeys(part, file)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    assert same(read_weights(tmp_path, spec), whole)
    path.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(ModelFolderError, match="outside the folder"):
        read_weights(tmp_path, spec)


def test_end_tokens_and_rope_settings_are_read_in_all_their_spellings(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    shape = tiny.config(rope_theta=None, rope_parameters={"rope_theta": 5e5, **scaling}, eos_token_id=7)
    (tmp_path / "config.json").write_text(json.dumps(shape))
    spec = read_spec(tmp_path)
    assert (spec.rope.theta, spec.eos_ids) == (5e5, (7,))
    plain = [5e5 ** (-index / 4) for index in range(4)]
    stretched, _ = frequencies(spec.rope, spec.head_size, spec.context_length)
    assert stretched[0] == plain[0]
    assert stretched[-1] == pytest.approx(plain[-1] / 8)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [3, 4]}))
    assert read_spec(tmp_path).eos_ids == (3, 4)
