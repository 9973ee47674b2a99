"""The Llama decoder as a plain function of its weights, in PyTorch.

Weights are a dict by Hugging Face name, so that export is a copy and nothing else. Architecture: Touvron et al. 2023
(arXiv 2302.13971); grouped-query attention: Ainslie et al. 2023 (arXiv 2305.13245).
"""

import math

import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone reads
from torch import Tensor

from headgate.training.shape import Shape

Weights = dict[str, Tensor]
Cache = list[tuple[Tensor, Tensor]]


def fresh(shape: Shape, seed: int) -> Weights:
    """Random weights: normal, scaled by fan-in; what writes to the residual stream starts smaller."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, size in shape.tensors().items():
        if len(size) == 1:
            weights[name] = torch.ones(size)
            continue
        spread = 0.02 if "embed" in name else 1 / math.sqrt(size[1])
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            spread /= math.sqrt(2 * shape.num_hidden_layers)
        weights[name] = torch.randn(size, generator=generator) * spread
    return weights


def rotation(shape: Shape, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles for positions `start` to `start + length`."""
    steps = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
    angles = torch.outer(torch.arange(start, start + length).float(), shape.rope_theta**-steps)
    both = torch.cat((angles, angles), dim=-1)
    return both.cos(), both.sin()


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    return x * cosine + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sine


def _attention(
    weights: Weights, stem: str, shape: Shape, x: Tensor, turn: tuple[Tensor, Tensor], past: Cache | None
) -> Tensor:
    rows, length, _ = x.shape
    size = shape.head_dim
    q = F.linear(x, weights[f"{stem}.q_proj.weight"]).view(rows, length, -1, size).transpose(1, 2)
    k = F.linear(x, weights[f"{stem}.k_proj.weight"]).view(rows, length, -1, size).transpose(1, 2)
    v = F.linear(x, weights[f"{stem}.v_proj.weight"]).view(rows, length, -1, size).transpose(1, 2)
    q, k = _turned(q, *turn), _turned(k, *turn)
    if past is not None:
        layer = int(stem.split(".")[2])
        if layer < len(past):
            k, v = torch.cat((past[layer][0], k), 2), torch.cat((past[layer][1], v), 2)
            past[layer] = (k, v)
        else:
            past.append((k, v))
    share = shape.num_attention_heads // shape.num_key_value_heads
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    # by hand: for rows this short it is a third faster on a CPU than the fused kernel and its backward pass
    scores = torch.matmul(q.to(v.dtype), k.to(v.dtype).transpose(-1, -2)) * size**-0.5
    if length > 1:
        scores = scores + torch.full((length, length), -math.inf, dtype=scores.dtype).triu(1)
    out = torch.matmul(torch.softmax(scores, -1).to(v.dtype), v)
    return F.linear(out.transpose(1, 2).reshape(rows, length, -1), weights[f"{stem}.o_proj.weight"])


def hidden(weights: Weights, shape: Shape, ids: Tensor, past: Cache | None = None) -> Tensor:
    """The last hidden states, normalised. With `past`, the ids continue it and it grows in place."""
    start = past[0][0].shape[2] if past else 0
    turn = rotation(shape, start, ids.shape[1])
    x = F.embedding(ids, weights["model.embed_tokens.weight"])
    width, small = (shape.hidden_size,), shape.rms_norm_eps
    for layer in range(shape.num_hidden_layers):
        stem = f"model.layers.{layer}"
        y = F.rms_norm(x, width, weights[f"{stem}.input_layernorm.weight"], small)
        x = x + _attention(weights, f"{stem}.self_attn", shape, y, turn, past)
        y = F.rms_norm(x, width, weights[f"{stem}.post_attention_layernorm.weight"], small)
        gate = F.silu(F.linear(y, weights[f"{stem}.mlp.gate_proj.weight"])) * F.linear(
            y, weights[f"{stem}.mlp.up_proj.weight"]
        )
        x = x + F.linear(gate, weights[f"{stem}.mlp.down_proj.weight"])
    return F.rms_norm(x, width, weights["model.norm.weight"], small)


def losses(weights: Weights, shape: Shape, ids: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of every target."""
    states = hidden(weights, shape, ids)
    logits = F.linear(states, weights["model.embed_tokens.weight"])
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def greedy(weights: Weights, shape: Shape, prompts: list[list[int]], end: int, limit: int) -> list[list[int]]:
    """The most likely continuation of each prompt, up to the end token or the limit. Prompts must be of one length."""
    with torch.no_grad():
        return _greedy(weights, shape, prompts, end, limit)


def _greedy(weights: Weights, shape: Shape, prompts: list[list[int]], end: int, limit: int) -> list[list[int]]:
    past: Cache = []
    ids = torch.tensor(prompts)
    written: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    for _ in range(limit):
        states = hidden(weights, shape, ids, past)[:, -1]
        chosen = F.linear(states, weights["model.embed_tokens.weight"]).argmax(-1).tolist()
        for row, token in enumerate(chosen):
            done[row] = done[row] or token == end
            if not done[row]:
                written[row].append(token)
        if all(done):
            break
        ids = torch.tensor(chosen)[:, None]
    return written
