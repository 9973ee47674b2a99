"""A decoder's forward pass written the plain way in float64: no cache, no batching, nothing folded. To compare with."""

import math
from typing import Any

import numpy as np

from tests.engine.tiny import Tensors

Array = np.ndarray[Any, Any]


def logits(shape: dict[str, Any], tensors: Tensors, tokens: list[int]) -> Array:
    """Logits after every token, [tokens, vocabulary]."""
    get = {name: value.astype(np.float64) for name, value in tensors.items()}
    epsilon = shape["rms_norm_eps"]

    def linear(x: Array, name: str) -> Array:
        result: Array = x @ get[f"{name}_proj.weight"].T + get.get(f"{name}_proj.bias", 0.0)
        return result

    x = get["model.embed_tokens.weight"][tokens]
    for index in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        h = norm(x, get[prefix + "input_layernorm.weight"], epsilon)
        q, k, v = (linear(h, f"{prefix}self_attn.{name}") for name in "qkv")
        norms = (get.get(f"{prefix}self_attn.q_norm.weight"), get.get(f"{prefix}self_attn.k_norm.weight"))
        x = x + linear(attend(shape, q, k, v, norms, window(shape, index)), prefix + "self_attn.o")
        h = norm(x, get[prefix + "post_attention_layernorm.weight"], epsilon)
        gate = linear(h, prefix + "mlp.gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, prefix + "mlp.up"), prefix + "mlp.down")
    x = norm(x, get["model.norm.weight"], epsilon)
    head_matrix = get["model.embed_tokens.weight"] if shape["tie_word_embeddings"] else get["lm_head.weight"]
    result: Array = x @ head_matrix.T
    return result


def attend(
    shape: dict[str, Any], q: Array, k: Array, v: Array, norms: tuple[Array | None, Array | None], seen: float
) -> Array:
    heads = shape["num_attention_heads"]
    kv_heads = shape.get("num_key_value_heads") or heads
    size = shape.get("head_dim") or shape["hidden_size"] // heads
    at = np.arange(len(q))
    hidden = (at[None, :] > at[:, None]) | (at[None, :] <= at[:, None] - seen)
    out = np.zeros_like(q)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        shared = head // (heads // kv_heads)
        theirs = slice(shared * size, (shared + 1) * size)
        queries, keys = q[:, own], k[:, theirs]
        if norms[0] is not None and norms[1] is not None:
            queries = norm(queries, norms[0], shape["rms_norm_eps"])
            keys = norm(keys, norms[1], shape["rms_norm_eps"])
        scores = rotate(queries, shape) @ rotate(keys, shape).T / math.sqrt(size)
        scores[hidden] = -np.inf
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, own] = (weights / weights.sum(axis=1, keepdims=True)) @ v[:, theirs]
    return out


def window(shape: dict[str, Any], index: int) -> float:
    """How many tokens a token of this layer attends to, itself included."""
    own = shape.get("sliding_window")
    match shape["architectures"][0]:
        case "MistralForCausalLM":
            pass
        case "Qwen2ForCausalLM" | "Qwen3ForCausalLM" if shape.get("use_sliding_window"):
            kinds = shape.get("layer_types")
            if kinds is None and index < shape.get("max_window_layers", 28):
                own = None
            if kinds is not None and kinds[index] == "full_attention":
                own = None
        case _:
            own = None
    return math.inf if own is None else own


def norm(x: Array, weight: Array, epsilon: float) -> Array:
    result: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * weight
    return result


def rotate(x: Array, shape: dict[str, Any]) -> Array:
    """Rotary embedding as Hugging Face writes it: the two halves of a head are the pairs."""
    half = x.shape[1] // 2
    turns, scale = rope(shape, half)
    angles = np.arange(len(x))[:, None] * turns[None, :]
    cos, sin = np.cos(angles) * scale, np.sin(angles) * scale
    first, second = x[:, :half], x[:, half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=1)


def rope(shape: dict[str, Any], half: int) -> tuple[Array, float]:
    """Radians per position, and the factor on what is rotated."""
    values = shape.get("rope_scaling") or shape.get("rope_parameters") or {}
    theta = values.get("rope_theta", shape.get("rope_theta") or 10_000.0)
    plain = theta ** (-np.arange(half) / half)
    kind, factor = values.get("rope_type", values.get("type", "default")), values.get("factor", 1.0)
    trained = values.get("original_max_position_embeddings", shape["max_position_embeddings"])
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        low, high = values["low_freq_factor"], values["high_freq_factor"]
        kept = np.clip((trained * plain / (2 * math.pi) - low) / (high - low), 0, 1)
        return kept * plain + (1 - kept) * plain / factor, 1.0
    if kind == "yarn":
        fast, slow = (
            half * math.log(trained / (turns * 2 * math.pi)) / math.log(theta)
            for turns in (values.get("beta_fast", 32), values.get("beta_slow", 1))
        )
        if values.get("truncate", True):
            fast, slow = math.floor(fast), math.ceil(slow)
        fast, slow = max(fast, 0), min(slow, 2 * half - 1)
        kept = 1 - np.clip((np.arange(half) - fast) / (slow - fast or 0.001), 0, 1)
        scale = values.get("attention_factor") or 0.1 * math.log(factor) + 1
        if values.get("mscale") and values.get("mscale_all_dim"):
            scale = (0.1 * values["mscale"] * math.log(factor) + 1) / (
                0.1 * values["mscale_all_dim"] * math.log(factor) + 1
            )
        return kept * plain + (1 - kept) * plain / factor, scale
    return plain, 1.0


def greedy(shape: dict[str, Any], tensors: Tensors, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits(shape, tensors, tokens)[-1].argmax()))
    return tokens[len(prompt) :]
