"""Rotary position embeddings (RoFormer, arXiv 2104.09864) and their stretchings, as `transformers` 5 computes them."""

import math
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

Positive = Annotated[float, Meta(gt=0, le=1e12)]
Tokens = Annotated[int, Meta(ge=1, le=2**31)]

KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
_LAYER_TYPES = {"full_attention", "sliding_attention"}


class Rope(Struct, frozen=True, kw_only=True):
    """How positions turn the pairs of a head. `kind` says which of the other fields count."""

    kind: str = "default"
    theta: Positive = 10_000.0
    factor: Positive | None = None
    low_freq_factor: Positive = 1.0
    high_freq_factor: Positive = 4.0
    original_max_position_embeddings: Tokens = 8192
    attention_factor: Positive | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


def read_rope(
    scaling: dict[str, Any] | None, parameters: dict[str, Any] | None, theta: float | None, original: int
) -> Rope:
    """From `rope_scaling` (with `type` or `rope_type`) or, newer, `rope_parameters`, which may hold `rope_theta` too.

    `original` is the context length of training where the values do not say. Raises `ValueError` with the field.
    """
    values = _of_one_kind({key: value for key, value in (scaling or parameters or {}).items() if value is not None})
    kind = values.get("rope_type", values.get("type", "default"))
    if kind not in KINDS:
        raise ValueError(f"rope_scaling: rope_type {kind!r} is not supported; the engine has {', '.join(KINDS)}")
    if values.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError("rope_scaling: partial_rotary_factor must be 1: the engine turns whole heads")
    found = {"original_max_position_embeddings": original, **values, "kind": kind}
    found["theta"] = values.get("rope_theta", theta if theta is not None else 10_000.0)
    try:
        rope = msgspec.convert(found, Rope)
    except msgspec.ValidationError as error:
        raise ValueError(f"rope_scaling: {error}") from error
    if kind in {"linear", "llama3", "dynamic"} and rope.factor is None:
        raise ValueError(f"rope_scaling: factor is missing; {kind!r} needs it")
    if kind == "llama3" and rope.high_freq_factor <= rope.low_freq_factor:
        raise ValueError("rope_scaling: high_freq_factor must be greater than low_freq_factor")
    if rope.theta <= 1.0:
        raise ValueError(f"rope_theta must be greater than 1, not {rope.theta}")
    return rope


def _of_one_kind(values: dict[str, Any]) -> dict[str, Any]:
    """Values may be given for each type of layer: then they must be the same."""
    nested = [value for key, value in values.items() if key in _LAYER_TYPES]
    if not nested:
        return values
    if any(value != nested[0] for value in nested) or not isinstance(nested[0], dict):
        raise ValueError("rope_parameters differ between types of layers, which is not supported")
    return {key: value for key, value in nested[0].items() if value is not None}


def frequencies(rope: Rope, head_size: int, context_length: int) -> tuple[list[float], float]:
    """Radians per position of each pair of a head, and the factor on the rotated vectors (YaRN's temperature).

    The `dynamic` kind stretches only beyond `max_position_embeddings`, which is the longest context here: it has no
    effect within it, as in `transformers`.
    """
    half = head_size // 2
    plain = [rope.theta ** (-index / half) for index in range(half)]
    if rope.kind == "linear":
        return [frequency / (rope.factor or 1.0) for frequency in plain], 1.0
    if rope.kind == "llama3":
        return [_llama3(frequency, rope) for frequency in plain], 1.0
    if rope.kind == "yarn":
        factor = rope.factor or context_length / rope.original_max_position_embeddings
        return _yarn(plain, rope, factor), _temperature(rope, factor)
    return plain, 1.0


def _llama3(frequency: float, rope: Rope) -> float:
    """Llama 3.1: slow pairs are stretched, fast ones kept, those between mixed."""
    turns = rope.original_max_position_embeddings * frequency / (2 * math.pi)
    mix = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    mix = min(1.0, max(0.0, mix))
    return (1 - mix) * frequency / (rope.factor or 1.0) + mix * frequency


def _yarn(plain: list[float], rope: Rope, factor: float) -> list[float]:
    """YaRN (arXiv 2309.00071): pairs that turn more than `beta_fast` times in the context of training are kept, those
    that turn less than `beta_slow` times stretched, those between mixed by their index."""
    size = 2 * len(plain)

    def index(turns: float) -> float:
        """The pair (as a fraction) that turns so often."""
        return (
            size * math.log(rope.original_max_position_embeddings / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        )

    low, high = index(rope.beta_fast or 32.0), index(rope.beta_slow or 1.0)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    if low == high:
        high += 0.001
    stretched = []
    for at, frequency in enumerate(plain):
        ramp = min(1.0, max(0.0, (at - low) / (high - low)))
        stretched.append(frequency / factor * ramp + frequency * (1 - ramp))
    return stretched


def _temperature(rope: Rope, factor: float) -> float:
    if rope.attention_factor is not None:
        return rope.attention_factor

    def scale(by: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * by * math.log(factor) + 1.0

    if rope.mscale and rope.mscale_all_dim:
        return scale(rope.mscale) / scale(rope.mscale_all_dim)
    return scale(1.0)
