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


def biases(shape: dict[str, Any]) -> tuple[bool, bool, bool]:
    """Whether queries, keys and values have one, what attention gives out, and the MLP."""
    family = shape["architectures"][0]
    asked = bool(shape.get("attention_bias")) and family in {"LlamaForCausalLM", "Qwen3ForCausalLM"}
    inner = bool(shape.get("mlp_bias")) and family == "LlamaForCausalLM"
    return asked or family == "Qwen2ForCausalLM", asked, inner


def tensors(shape: dict[str, Any], seed: int = 0, spread: float = 0.35) -> Tensors:
    rng = np.random.default_rng(seed)
    hidden, inner, heads = shape["hidden_size"], shape["intermediate_size"], shape["num_attention_heads"]
    size = shape.get("head_dim") or hidden // heads
    kv = (shape.get("num_key_value_heads") or heads) * size
    qkv_bias, out_bias, mlp_bias = biases(shape)

    def matrix(*dims: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(dims) * spread).astype(np.float32)

    out: Tensors = {"model.embed_tokens.weight": matrix(shape["vocab_size"], hidden)}

    def linear(name: str, width: int, inputs: int, bias: bool) -> None:
        out[f"{name}_proj.weight"] = matrix(width, inputs)
        if bias:
            out[f"{name}_proj.bias"] = matrix(width)

    for index in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        out[prefix + "input_layernorm.weight"] = 1 + matrix(hidden)
        out[prefix + "post_attention_layernorm.weight"] = 1 + matrix(hidden)
        for name, width in (("q", heads * size), ("k", kv), ("v", kv)):
            linear(f"{prefix}self_attn.{name}", width, hidden, qkv_bias)
        linear(f"{prefix}self_attn.o", hidden, heads * size, out_bias)
        if shape["architectures"][0] == "Qwen3ForCausalLM":
            out[prefix + "self_attn.q_norm.weight"] = 1 + matrix(size)
            out[prefix + "self_attn.k_norm.weight"] = 1 + matrix(size)
        linear(prefix + "mlp.gate", inner, hidden, mlp_bias)
        linear(prefix + "mlp.up", inner, hidden, mlp_bias)
        linear(prefix + "mlp.down", hidden, inner, mlp_bias)
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
