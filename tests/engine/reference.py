"""A Llama forward pass written the plain way in float64: no cache, no batching, nothing folded. For comparison only."""

import math
from typing import Any

import numpy as np

from tests.engine.tiny import Tensors

Array = np.ndarray[Any, Any]


def logits(shape: dict[str, Any], tensors: Tensors, tokens: list[int]) -> Array:
    """Logits after every token, [tokens, vocabulary]."""
    get = {name: value.astype(np.float64) for name, value in tensors.items()}
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    size = shape.get("head_dim") or shape["hidden_size"] // heads
    x = get["model.embed_tokens.weight"][tokens]
    for index in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        h = norm(x, get[prefix + "input_layernorm.weight"], shape["rms_norm_eps"])
        parts = []
        for name in ("q", "k", "v"):
            part = h @ get[f"{prefix}self_attn.{name}_proj.weight"].T
            bias = get.get(f"{prefix}self_attn.{name}_proj.bias")
            parts.append(part if bias is None else part + bias)
        q, k, v = parts
        out = np.zeros_like(q)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            shared = head // (heads // kv_heads)
            theirs = slice(shared * size, (shared + 1) * size)
            queries = rotate(q[:, own], shape["rope_theta"])
            keys = rotate(k[:, theirs], shape["rope_theta"])
            for at in range(len(tokens)):
                scores = keys[: at + 1] @ queries[at] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[at, own] = (weights / weights.sum()) @ v[: at + 1, theirs]
        x = x + out @ get[prefix + "self_attn.o_proj.weight"].T
        h = norm(x, get[prefix + "post_attention_layernorm.weight"], shape["rms_norm_eps"])
        gate = h @ get[prefix + "mlp.gate_proj.weight"].T
        up = h @ get[prefix + "mlp.up_proj.weight"].T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ get[prefix + "mlp.down_proj.weight"].T
    x = norm(x, get["model.norm.weight"], shape["rms_norm_eps"])
    head_matrix = get["model.embed_tokens.weight"] if shape["tie_word_embeddings"] else get["lm_head.weight"]
    result: Array = x @ head_matrix.T
    return result


def norm(x: Array, weight: Array, epsilon: float) -> Array:
    result: Array = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * weight
    return result


def rotate(x: Array, theta: float) -> Array:
    """Rotary embedding as Hugging Face writes it: the two halves of a head are the pairs."""
    half = x.shape[1] // 2
    angles = np.arange(len(x))[:, None] * (theta ** (-np.arange(half) / half))[None, :]
    cos, sin = np.cos(angles), np.sin(angles)
    first, second = x[:, :half], x[:, half:]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=1)


def greedy(shape: dict[str, Any], tensors: Tensors, prompt: list[int], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(logits(shape, tensors, tokens)[-1].argmax()))
    return tokens[len(prompt) :]
