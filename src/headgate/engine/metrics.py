"""What an engine reports about itself after every step."""

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

    @property
    def kv_usage(self) -> float:
        """vllm:kv_cache_usage_perc, 0 to 1."""
        return self.kv_blocks_used / self.kv_blocks_total if self.kv_blocks_total else 0.0

    def since(self, before: "EngineStats") -> "EngineStats":
        """These gauges, with the totals of an engine process that ended `before` this one began added."""
        return EngineStats(
            self.running,
            self.waiting,
            self.kv_blocks_used,
            self.kv_blocks_total,
            self.prompt_tokens + before.prompt_tokens,
            self.generated_tokens + before.generated_tokens,
            self.computed_tokens + before.computed_tokens,
            self.preemptions + before.preemptions,
            self.steps + before.steps,
            self.plan_s + before.plan_s,
            self.forward_s + before.forward_s,
            self.sample_s + before.sample_s,
        )
