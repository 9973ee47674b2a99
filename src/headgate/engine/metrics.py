"""What an engine reports about itself: totals and gauges after every step, distributions a few times a second."""

from bisect import bisect_left
from operator import add

import msgspec
from msgspec import Struct


class EngineStats(Struct, frozen=True, array_like=True):
    """Gauges of now and totals since the start. The names vLLM exports them under stand beside."""

    running: int = 0
    """vllm:num_requests_running (sequences)"""
    waiting: int = 0
    """vllm:num_requests_waiting"""
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    prompt_tokens: int = 0
    """vllm:prompt_tokens_total"""
    generated_tokens: int = 0
    """vllm:generation_tokens_total"""
    computed_tokens: int = 0
    preemptions: int = 0
    """vllm:num_preemptions_total"""
    steps: int = 0
    plan_s: float = 0.0
    forward_s: float = 0.0
    sample_s: float = 0.0
    mask_s: float = 0.0
    """Waiting for the masks of grammars."""
    cached_tokens: int = 0
    """vllm:prompt_tokens_cached_total: prompt tokens of admitted sequences that came from the prefix cache."""
    prefix_queries: int = 0
    """vllm:prefix_cache_queries_total, in tokens"""
    prefix_hits: int = 0
    """vllm:prefix_cache_hits_total, in tokens"""
    drafts: int = 0
    """vllm:spec_decode_num_drafts_total"""
    draft_tokens: int = 0
    """vllm:spec_decode_num_draft_tokens_total"""
    accepted_tokens: int = 0
    """vllm:spec_decode_num_accepted_tokens_total"""

    @property
    def kv_usage(self) -> float:
        """vllm:kv_cache_usage_perc, 0 to 1."""
        return self.kv_blocks_used / self.kv_blocks_total if self.kv_blocks_total else 0.0

    def since(self, before: "EngineStats") -> "EngineStats":
        """These gauges, with the totals of an engine process that ended `before` this one began added."""
        mine, theirs = msgspec.structs.astuple(self), msgspec.structs.astuple(before)
        return EngineStats(*mine[:GAUGES], *map(add, mine[GAUGES:], theirs[GAUGES:]))


GAUGES = EngineStats.__struct_fields__.index("prompt_tokens")
"""So many of the first fields are gauges of now; all others are totals."""

FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
BETWEEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
LENGTHS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
STEP_TOKENS = tuple(float(2**power) for power in (0, *range(3, 15)))
"""The borders of vLLM's buckets, so that dashboards and alerts written for it fit."""


class Distribution(Struct, array_like=True):
    """How often a value fell into each bucket, the last one without a border; and the sum of all."""

    counts: list[int]
    total: float = 0.0

    def observe(self, value: float, bounds: tuple[float, ...]) -> None:
        self.counts[bisect_left(bounds, value)] += 1
        self.total += value

    def plus(self, other: "Distribution") -> "Distribution":
        return Distribution(list(map(add, self.counts, other.counts)), self.total + other.total)


BOUNDS: dict[str, tuple[float, ...]] = {
    "time_to_first_token_seconds": FIRST_TOKEN_S,
    "inter_token_latency_seconds": BETWEEN_S,
    "e2e_request_latency_seconds": REQUEST_S,
    "request_queue_time_seconds": REQUEST_S,
    "request_prefill_time_seconds": REQUEST_S,
    "request_decode_time_seconds": REQUEST_S,
    "request_prompt_tokens": LENGTHS,
    "request_generation_tokens": LENGTHS,
    "iteration_tokens_total": STEP_TOKENS,
}
"""By vLLM's name, `vllm:` left out. A "request" is one sequence, as vLLM counts them."""

FINISHES = ("stop", "length", "abort", "error")
"""vllm:request_success_total's `finished_reason`: `abort` has left before the end, `error` is a failed grammar."""


class Timings(Struct):
    """Distributions since the process's start, and how many sequences ended for which reason."""

    distributions: dict[str, Distribution]
    finished: dict[str, int]

    @classmethod
    def empty(cls) -> "Timings":
        fresh = {name: Distribution([0] * (len(bounds) + 1)) for name, bounds in BOUNDS.items()}
        return cls(fresh, dict.fromkeys(FINISHES, 0))

    def plus(self, other: "Timings") -> "Timings":
        both = {name: self.distributions[name].plus(other.distributions[name]) for name in BOUNDS}
        return Timings(both, {reason: self.finished[reason] + other.finished[reason] for reason in FINISHES})
