"""What the engines have counted, as families of metrics: vLLM's names for routers and autoscalers, and our own."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from headgate.app.inference import Inference
from headgate.core.hosting import EngineState, Memory
from headgate.engine.encoding.client import EncoderClient
from headgate.engine.front.client import EngineClient
from headgate.engine.metrics import BOUNDS, EngineStats
from headgate.telemetry import names
from headgate.telemetry.families import Buckets, Family, Spread

STATES: dict[EngineState, int] = {
    "asleep": 0, "loading": 1, "ready": 2, "restarting": 3, "refused": 4, "unloading": 5, "closed": 6
}  # fmt: skip
MIB = 2**20

_GAUGES: list[tuple[str, str, Callable[[EngineStats], float]]] = [
    ("num_requests_running", "Sequences being computed.", lambda stats: stats.running),
    ("num_requests_waiting", "Sequences waiting in the engine.", lambda stats: stats.waiting),
    ("kv_cache_usage_perc", "KV cache in use, 0 to 1.", lambda stats: stats.kv_usage),
    ("gpu_cache_usage_perc", "As kv_cache_usage_perc, under its older name.", lambda stats: stats.kv_usage),
]
_COUNTERS: list[tuple[str, str, Callable[[EngineStats], float]]] = [
    ("prompt_tokens_total", "Prompt tokens taken in.", lambda stats: stats.prompt_tokens),
    ("generation_tokens_total", "Tokens generated.", lambda stats: stats.generated_tokens),
    ("prompt_tokens_cached_total", "Prompt tokens that were not computed again.", lambda stats: stats.cached_tokens),
    ("prefix_cache_queries_total", "Tokens looked for in the prefix cache.", lambda stats: stats.prefix_queries),
    ("prefix_cache_hits_total", "Tokens found in the prefix cache.", lambda stats: stats.prefix_hits),
    ("num_preemptions_total", "Sequences computed anew for want of room.", lambda stats: stats.preemptions),
    ("spec_decode_num_drafts_total", "Drafts verified.", lambda stats: stats.drafts),
    ("spec_decode_num_draft_tokens_total", "Tokens of drafts verified.", lambda stats: stats.draft_tokens),
    ("spec_decode_num_accepted_tokens_total", "Tokens of drafts that were right.", lambda stats: stats.accepted_tokens),
]
_SPREADS = {
    "time_to_first_token_seconds": "From a sequence's arrival in the engine to its first token.",
    "inter_token_latency_seconds": "Between the steps that gave a sequence tokens.",
    "e2e_request_latency_seconds": "From a sequence's arrival in the engine to its last token.",
    "request_queue_time_seconds": "Waiting for the first step.",
    "request_prefill_time_seconds": "From the first step to the first token.",
    "request_decode_time_seconds": "From the first token to the last.",
    "request_prompt_tokens": "Tokens of prompts.",
    "request_generation_tokens": "Tokens generated for a sequence.",
    "iteration_tokens_total": "Tokens computed in a step.",
}
_PARTS: dict[str, Callable[[EngineStats], float]] = {
    "plan": lambda stats: stats.plan_s,
    "forward": lambda stats: stats.forward_s,
    "mask": lambda stats: stats.mask_s,
    "sample": lambda stats: stats.sample_s,
}


def families(models: Sequence[Inference], memory: Memory) -> Iterable[Family | Spread]:
    """Read when the page is asked for: the work grows with the number of models, not with that of tokens."""
    yield from _own(models, memory)
    yield Family(
        "vllm:engine_sleep_state", "1 in the state that the engine is in.", "gauge",
        [
            ({**_labels(one), "sleep_state": state}, float(state == ("discard_all" if one.process.asleep else "awake")))
            for one in models for state in ("awake", "weights_offloaded", "discard_all")
        ],
    )  # fmt: skip
    yield from _encoders([(one, one.client) for one in models if isinstance(one.client, EncoderClient)])
    writers = [(one, one.client) for one in models if isinstance(one.client, EngineClient)]
    read = [(_labels(one), client.stats) for one, client in writers]
    for name, about, value in _GAUGES:
        yield Family(f"vllm:{name}", about, "gauge", [(labels, value(stats)) for labels, stats in read])
    for name, about, value in _COUNTERS:
        yield Family(f"vllm:{name}", about, "counter", [(labels, value(stats)) for labels, stats in read])
    yield Family(
        names.ENGINE_STEPS + "_total",
        "Steps computed.",
        "counter",
        [(_model(one), c.stats.steps) for one, c in writers],
    )
    yield Family(
        names.ENGINE_STEP_SECONDS + "_total", "Time spent in steps, by part.", "counter",
        [({**_model(one), "part": part}, of(c.stats)) for one, c in writers for part, of in _PARTS.items()],
    )  # fmt: skip
    yield from _timed(writers)


def _encoders(readers: Sequence[tuple[Inference, EncoderClient]]) -> Iterable[Family]:
    read = [(_model(one), client.stats) for one, client in readers]
    yield Family(
        names.ENCODER_DRIFT, "How far its numbers are from those first recorded.", "gauge",
        [(_model(one), 0.0 if one.drift is None else one.drift.distance) for one, _ in readers],
    )  # fmt: skip
    yield Family(
        names.ENCODER_WAITING, "Texts waiting to be computed.", "gauge", [(labels, s.waiting) for labels, s in read]
    )
    yield Family(
        names.ENCODER_TEXTS + "_total", "Texts, by where their numbers came from.", "counter",
        [
            ({**labels, "source": source}, count)
            for labels, s in read for source, count in (("computed", s.texts - s.hits), ("cache", s.hits))
        ],
    )  # fmt: skip
    yield Family(
        names.ENCODER_TOKENS + "_total", "Tokens computed.", "counter", [(labels, s.tokens) for labels, s in read]
    )
    yield Family(
        names.ENCODER_SECONDS + "_total", "Time spent, by part.", "counter",
        [
            ({**labels, "part": part}, took)
            for labels, s in read for part, took in (("forward", s.forward_s), ("held", s.held_s))
        ],
    )  # fmt: skip


def _timed(writers: Sequence[tuple[Inference, EngineClient]]) -> Iterable[Family | Spread]:
    known = [(one, client) for one, client in writers if client.known]
    yield Family(
        "vllm:cache_config_info", "How the KV cache is laid out.", "gauge",
        [
            (
                {
                    **_labels(one),
                    "block_size": str(client.limits.block_size),
                    "num_gpu_blocks": str(client.limits.blocks),
                    "enable_prefix_caching": str(client.settings.prefix_cache),
                    "cache_dtype": "float32",
                },
                1.0,
            )
            for one, client in known
        ],
    )  # fmt: skip
    timings = [(_labels(one), client.timings) for one, client in writers]
    yield Family(
        "vllm:request_success_total", "Sequences that ended, by how.", "counter",
        [
            ({**labels, "finished_reason": reason}, count)
            for labels, timing in timings for reason, count in timing.finished.items()
        ],
    )  # fmt: skip
    for name, bounds in BOUNDS.items():
        found = [(labels, timing.distributions[name]) for labels, timing in timings]
        yield Spread(
            f"vllm:{name}", _SPREADS[name], [(labels, Buckets(bounds, one.counts, one.total)) for labels, one in found]
        )


def _own(models: Sequence[Inference], memory: Memory) -> Iterable[Family]:
    def each(name: str, about: str, value: Callable[[Inference], float]) -> Family:
        kind: Literal["counter", "gauge"] = "counter" if name.endswith("_total") else "gauge"
        return Family(name, about, kind, [(_model(one), value(one)) for one in models])

    yield each(
        names.ENGINE_STATES, "0 asleep, 1 loading, 2 ready, 3 restarting, 4 refused, 5 unloading.",
        lambda one: STATES[one.state],
    )  # fmt: skip
    yield each(names.ENGINE_MEMORY, "What the model is counted with.", lambda one: one.mib * MIB if one.holds else 0.0)
    yield Family(
        names.ENGINE_MEMORY_LIMIT, "What all models awake may take; 0: no limit.", "gauge",
        [({}, float(memory.limit_mib * MIB))],
    )  # fmt: skip
    yield Family(
        names.ENGINE_START_SECONDS, "What each part of the latest start took.", "gauge",
        [({**_model(one), "phase": phase}, took) for one in models for phase, took in one.process.phases.items()],
    )  # fmt: skip
    yield each(names.ENGINE_READY_SECONDS, "From the latest start to readiness.", lambda one: one.process.start_s)
    yield each(names.ENGINE_STARTS + "_total", "Times the engine became ready.", lambda one: one.process.starts)
    yield each(
        names.ENGINE_RESTARTS + "_total", "Engine processes that died and were replaced.",
        lambda one: one.process.restarts,
    )  # fmt: skip


def _labels(one: Inference) -> Mapping[str, str]:
    """vLLM's."""
    return {"model_name": one.name, "engine": "0"}


def _model(one: Inference) -> Mapping[str, str]:
    return {"model": one.name}
