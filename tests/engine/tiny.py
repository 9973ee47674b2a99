"""Random models small enough for tests: a folder as Hugging Face lays it out, and its weights for a reference."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}

Tensors = dict[str, np.ndarray[Any, Any]]


def config(**changes: Any) -> dict[str, Any]:
    return {**CONFIG, **changes}


def tensors(shape: dict[str, Any], seed: int = 0, spread: float = 0.35) -> Tensors:
    rng = np.random.default_rng(seed)
    hidden, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    size = shape.get("head_dim") or hidden // heads
    kv = shape["num_key_value_heads"] * size

    def matrix(*dims: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(dims) * spread).astype(np.float32)

    out: Tensors = {"model.embed_tokens.weight": matrix(shape["vocab_size"], hidden)}
    for index in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        out[prefix + "input_layernorm.weight"] = 1 + matrix(hidden)
        out[prefix + "post_attention_layernorm.weight"] = 1 + matrix(hidden)
        for name, width in (("q", heads * size), ("k", kv), ("v", kv)):
            out[f"{prefix}self_attn.{name}_proj.weight"] = matrix(width, hidden)
            if shape.get("attention_bias"):
                out[f"{prefix}self_attn.{name}_proj.bias"] = matrix(width)
        out[prefix + "self_attn.o_proj.weight"] = matrix(hidden, heads * size)
        out[prefix + "mlp.gate_proj.weight"] = matrix(inner, hidden)
        out[prefix + "mlp.up_proj.weight"] = matrix(inner, hidden)
        out[prefix + "mlp.down_proj.weight"] = matrix(hidden, inner)
    out["model.norm.weight"] = 1 + matrix(hidden)
    if not shape["tie_word_embeddings"]:
        out["lm_head.weight"] = matrix(shape["vocab_size"], hidden)
    return out


def encode(tensors: Tensors, dtype: str = "F32") -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks: list[bytes] = []
    at = 0
    for name, value in tensors.items():
        match dtype:
            case "F32":
                raw = value.astype("<f4").tobytes()
            case "F16":
                raw = value.astype("<f2").tobytes()
            case _:
                raw = (value.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + len(raw)]}
        chunks.append(raw)
        at += len(raw)
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(chunks)


def write(folder: Path, shape: dict[str, Any] | None = None, *, seed: int = 0, dtype: str = "F32") -> Tensors:
    """Writes config.json and model.safetensors; gives back the tensors as written."""
    shape = shape or CONFIG
    made = tensors(shape, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "model.safetensors").write_bytes(encode(made, dtype))
    return made
