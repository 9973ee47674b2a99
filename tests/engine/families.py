"""Small models of every family and option that the engine runs, and how to compute with them by hand."""

from pathlib import Path
from typing import Any

import numpy as np

from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import read_weights
from headgate.engine.plan import Slice, StepPlan
from headgate.engine.runners.numpy_runner import NumpyRunner
from tests.engine import tiny

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
QWEN2, QWEN3, MISTRAL = ["Qwen2ForCausalLM"], ["Qwen3ForCausalLM"], ["MistralForCausalLM"]

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama, multi-head, untied": {"num_key_value_heads": None, "tie_word_embeddings": False},
    "llama, one kv head, every bias": {
        "num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "head_dim": 6
    },
    "llama, linear rope": {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "llama, llama3 rope": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    "llama, llama3 rope, new spelling": {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, **LLAMA3}},
    "llama, dynamic rope": {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}},
    "llama, yarn": {"rope_scaling": {"type": "yarn", **YARN}},
    "llama, yarn, every number": {
        "head_dim": 16,
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "beta_fast": 16.0, "beta_slow": 2.0,
                            "truncate": False, "mscale": 0.8, "mscale_all_dim": 0.5, **YARN},
    },
    "llama, yarn, own temperature": {
        "head_dim": 16, "rope_scaling": {"rope_type": "yarn", "attention_factor": 1.2, **YARN}
    },
    "qwen2": {"architectures": QWEN2, "rope_theta": 1e6, "use_sliding_window": False, "sliding_window": 32},
    "qwen2, windows in the upper layers": {
        "architectures": QWEN2, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1
    },
    "qwen2, windows by layer types": {
        "architectures": QWEN2, "use_sliding_window": True, "sliding_window": 9, "max_window_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3": {"architectures": QWEN3, "head_dim": 12, "rope_theta": 1e6},
    "qwen3, untied, bias": {
        "architectures": QWEN3, "head_dim": 8, "tie_word_embeddings": False, "attention_bias": True
    },
    "mistral": {"architectures": MISTRAL, "sliding_window": None, "tie_word_embeddings": False},
    "mistral, window": {"architectures": MISTRAL, "sliding_window": 24, "head_dim": 10},
    "mistral, window of one": {"architectures": MISTRAL, "sliding_window": 1},
}  # fmt: skip


def runner(folder: Path, *, blocks: int = 64, block_size: int = 8, threads: int = 1) -> NumpyRunner:
    spec = read_spec(folder)
    return NumpyRunner(spec, read_weights(folder, spec, threads=threads), blocks=blocks, block_size=block_size)


class Sequence:
    """Tokens of one sequence, handed out in slices; its blocks lie in no order."""

    def __init__(self, key: int, tokens: list[int], table: tuple[int, ...]) -> None:
        self.key, self.tokens, self.table, self.done = key, tokens, table, 0

    def slice(self, count: int, wants: int, block_size: int = 8) -> Slice:
        start, self.done = self.done, min(len(self.tokens), self.done + count)
        table = self.table[: -(-self.done // block_size)]
        return Slice(self.key, tuple(self.tokens[start : self.done]), start, table, min(wants, self.done - start))


def tables(count: int, blocks: int, seed: int = 0) -> list[tuple[int, ...]]:
    """`blocks` blocks for each of `count` sequences, mixed up; none is the padding block."""
    mixed = np.random.default_rng(seed).permutation(np.arange(1, count * blocks + 1)).tolist()
    return [tuple(mixed[index * blocks : (index + 1) * blocks]) for index in range(count)]


def run(runner: NumpyRunner, *slices: Slice) -> Any:
    return runner.forward(StepPlan(0, slices, ()))


def relative(found: Any, expected: Any) -> float:
    """Largest error of a row, by its largest logit."""
    return float(np.max(np.abs(found - expected).max(axis=-1) / np.abs(expected).max(axis=-1)))


def model(folder: Path, name: str, **changes: Any) -> tuple[dict[str, Any], tiny.Tensors]:
    shape = tiny.config(**{**FAMILIES[name], **changes})
    return shape, tiny.write(folder, shape)
