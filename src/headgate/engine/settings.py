"""What an operator may choose about the engine."""

from typing import Annotated, Literal

from msgspec import Meta, Struct


class Speculation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Drafting tokens that the model then verifies several at a time. The answers are the same."""

    method: Literal["off", "ngram", "draft"] = "off"
    """`ngram` looks for what followed the same words earlier on; `draft` asks a smaller model."""
    tokens: Annotated[int, Meta(ge=1, le=16)] = 4
    """The most tokens of one draft; fewer where they are seldom right."""
    model: str | None = None
    """The folder of the draft model: of the same tokenizer."""
    busy: Annotated[int, Meta(ge=1)] = 8
    """With more sequences than this side by side, nothing is drafted: computing is then better spent on them."""


class EncoderSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of an engine process whose model is an encoder: one that makes embeddings or ranks documents."""

    max_batch_tokens: Annotated[int, Meta(ge=1)] = 256
    """Tokens computed per step; 1 computes every text by itself. Larger batches are hardly faster, and whoever comes
    meanwhile waits for their end."""
    window_ms: Annotated[float, Meta(ge=0, le=100)] = 2.0
    """After a step, the longest wait for those who were just answered to ask again, in milliseconds, where less than
    half a batch is there. Whoever comes to an idle engine never waits."""
    max_waiting: Annotated[int, Meta(ge=1)] = 8_192
    """Texts that may be in flight; more are refused. A request by itself is always taken."""
    cache_mib: Annotated[int, Meta(ge=0)] = 32
    """Memory for vectors of texts that were computed before, by tenant, in MiB; 0 keeps none."""


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one engine process. The defaults suit small models on a laptop's CPU."""

    kv_cache_mib: Annotated[int, Meta(ge=1)] = 256
    """Memory for keys and values of all running sequences, in MiB; committed as it is used."""
    block_size: Annotated[int, Meta(ge=1, le=256)] = 8
    """Tokens per KV block."""
    max_batch_tokens: Annotated[int, Meta(ge=1)] = 256
    """Tokens computed per step at most, prompts and decodes together; beside running streams `step_ms` allows fewer."""
    max_sequences: Annotated[int, Meta(ge=1)] = 64
    """Sequences computed side by side."""
    max_waiting: Annotated[int, Meta(ge=0)] = 512
    """Sequences that may wait beyond that; more are refused."""
    step_ms: Annotated[float, Meta(gt=0)] = 20.0
    """How long a step with running streams may take for the sake of prompts, in milliseconds. Chunks of prompts are cut
    to that, so that long prompts do not make running streams stutter."""
    policy: Literal["fcfs", "short-first"] = "fcfs"
    """Which of the waiting comes first within its class and tenant: the first come, or short ones, weighed against how
    long they waited."""
    age_s: Annotated[float, Meta(gt=0)] = 10.0
    """After so many seconds of waiting a sequence counts as one class more urgent."""
    prefix_cache: bool = True
    """Keep the keys and values of what was computed, for prompts that begin alike, as long as there is room."""
    speculation: Speculation = Speculation()
    encoder: EncoderSettings = EncoderSettings()
    threads: Annotated[int, Meta(ge=0, le=64)] = 0
    """Threads that compute. 0: one for small models, which is fastest for them, and up to four for large ones."""
    hang_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds that the engine may have work and say nothing, not even of a step, before it is killed and replaced."""
