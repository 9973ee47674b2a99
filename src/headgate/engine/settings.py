"""What an operator may choose about the engine."""

from typing import Annotated

from msgspec import Meta, Struct


class EngineSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of one engine process. The defaults suit small models on a laptop's CPU."""

    kv_cache_mib: Annotated[int, Meta(ge=1)] = 256
    """Memory for keys and values of all running sequences, in MiB; committed as it is used."""
    block_size: Annotated[int, Meta(ge=1, le=256)] = 8
    """Tokens per KV block."""
    max_batch_tokens: Annotated[int, Meta(ge=1)] = 256
    """Tokens computed per step, prompts and decodes together: the longest pause a running stream sees."""
    max_sequences: Annotated[int, Meta(ge=1)] = 64
    """Sequences computed side by side."""
    max_waiting: Annotated[int, Meta(ge=0)] = 512
    """Sequences that may wait beyond that; more are refused."""
    threads: Annotated[int, Meta(ge=1)] = 1
    """BLAS threads. One is fastest for models that fit the processor's cache."""
    hang_s: Annotated[float, Meta(gt=0)] = 60.0
    """Seconds that the engine may have work and say nothing, not even of a step, before it is killed and replaced."""
