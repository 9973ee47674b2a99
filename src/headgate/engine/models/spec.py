"""What a Hugging Face `config.json` says about a Llama-style decoder, checked and in our words."""

import math
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from headgate.engine.errors import ModelFolderError

_T = TypeVar("_T")

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")


class RopeScaling(Struct, frozen=True):
    """How rotary frequencies are stretched for contexts longer than trained at first."""

    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


class ModelSpec(Struct, frozen=True, kw_only=True):
    """The shape of a model: enough to name its tensors and run it."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    context_length: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling
    tied: bool
    """Input embeddings serve as the output matrix too."""
    attention_bias: bool
    eos_ids: tuple[int, ...]

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size

    def kv_bytes_per_token(self, item: int = 4) -> int:
        return 2 * self.layers * self.kv_width * item


class _Config(Struct):
    """The fields read of `config.json`, under their names there."""

    architectures: list[str]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    quantization_config: dict[str, Any] | None = None
    eos_token_id: int | list[int] | None = None


class _Generation(Struct):
    eos_token_id: int | list[int] | None = None


def read_spec(folder: Path) -> ModelSpec:
    """Raises `ModelFolderError` where the folder is no model, or one that this engine cannot run."""
    config = _decode(folder / "config.json", _Config)
    unsupported = _unsupported(config)
    if unsupported is not None:
        raise ModelFolderError(f"{folder / 'config.json'}: {unsupported}")
    eos = config.eos_token_id
    if (folder / "generation_config.json").exists():
        generation = _decode(folder / "generation_config.json", _Generation)
        eos = generation.eos_token_id if generation.eos_token_id is not None else eos
    eos_ids = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    if any(not 0 <= token < config.vocab_size for token in eos_ids):
        raise ModelFolderError(f"{folder}: eos_token_id {eos} is outside of the vocabulary of {config.vocab_size}")
    rope = config.rope_parameters or {}
    theta = config.rope_theta if config.rope_theta is not None else rope.get("rope_theta", 10_000.0)
    architecture = config.architectures[0]
    return ModelSpec(
        architecture=architecture,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_size=config.head_dim or config.hidden_size // config.num_attention_heads,
        context_length=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        rope_theta=float(theta),
        rope_scaling=_rope_scaling(folder, config.rope_scaling or rope),
        tied=config.tie_word_embeddings,
        attention_bias=config.attention_bias or architecture == "Qwen2ForCausalLM",
        eos_ids=eos_ids,
    )


def _decode(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ModelFolderError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelFolderError(f"{path}: {error}") from error


def _unsupported(config: _Config) -> str | None:
    """Why this model cannot run here, or None."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    sizes = (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers, heads, kv_heads)
    if not config.architectures or config.architectures[0] not in ARCHITECTURES:
        return f"architecture {config.architectures} is not supported; the engine runs {', '.join(ARCHITECTURES)}"
    if min(sizes) < 1 or config.max_position_embeddings < 1:
        return "sizes must be positive"
    if heads % kv_heads:
        return f"{heads} attention heads cannot share {kv_heads} key-value heads evenly"
    head_size = config.head_dim or config.hidden_size // heads
    if head_size < 2 or head_size % 2:
        return f"the head size {head_size} must be even for rotary embeddings"
    if config.hidden_act != "silu":
        return f"activation {config.hidden_act!r} is not supported, only 'silu'"
    if config.mlp_bias:
        return "mlp_bias is not supported"
    if config.quantization_config is not None:
        return "quantised weights are not supported; use a folder with bfloat16, float16 or float32 weights"
    window = config.sliding_window if config.use_sliding_window is not False else None
    if window is not None and window < config.max_position_embeddings:
        return f"sliding-window attention ({window} tokens) is not supported"
    return None


def _rope_scaling(folder: Path, values: dict[str, Any]) -> RopeScaling:
    """Both spellings: `rope_scaling` with `type` or `rope_type`, and `rope_parameters`."""
    values = {"rope_type": values.get("type", "default"), **values}
    try:
        scaling = msgspec.convert(values, RopeScaling)
    except msgspec.ValidationError as error:
        raise ModelFolderError(f"{folder / 'config.json'}: rope_scaling: {error}") from error
    if scaling.rope_type not in {"default", "linear", "llama3"}:
        raise ModelFolderError(f"{folder / 'config.json'}: rope type {scaling.rope_type!r} is not supported")
    if scaling.factor <= 0 or scaling.high_freq_factor <= scaling.low_freq_factor:
        raise ModelFolderError(f"{folder / 'config.json'}: rope_scaling has impossible factors")
    return scaling


def rope_frequencies(spec: ModelSpec) -> list[float]:
    """Radians per position of each pair of a head (RoFormer, arXiv 2104.09864), stretched as `rope_scaling` says."""
    half = spec.head_size // 2
    plain = [spec.rope_theta ** (-index / half) for index in range(half)]
    scaling = spec.rope_scaling
    if scaling.rope_type == "default":
        return plain
    if scaling.rope_type == "linear":
        return [frequency / scaling.factor for frequency in plain]
    return [_llama3(frequency, scaling) for frequency in plain]


def _llama3(frequency: float, scaling: RopeScaling) -> float:
    """Llama 3.1: slow pairs are stretched, fast ones kept, those between mixed."""
    turns = scaling.original_max_position_embeddings * frequency / (2 * math.pi)
    mix = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    mix = min(1.0, max(0.0, mix))
    return (1 - mix) * frequency / scaling.factor + mix * frequency
