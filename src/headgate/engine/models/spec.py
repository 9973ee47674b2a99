"""What a Hugging Face `config.json` says about a decoder of the Llama kind, checked and in our words."""

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.json_file import read_json
from headgate.engine.models.rope import Rope, read_rope

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
FLOAT_BYTES = 4

_Width = Annotated[int, Meta(ge=1, le=2**20)]
_Heads = Annotated[int, Meta(ge=1, le=4096)]
_Context = Annotated[int, Meta(ge=1, le=2**31)]


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
    rope: Rope
    tied: bool
    """Input embeddings serve as the output matrix too."""
    attention_bias: bool
    """Queries, keys and values have a bias."""
    out_bias: bool = False
    """What attention gives out has one."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Each head's queries and keys are normed before they are rotated (Qwen3)."""
    windows: tuple[int | None, ...] = ()
    """Of each layer: how many tokens back, its own included, a token attends to; None for all."""
    eos_ids: tuple[int, ...]

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size

    @property
    def q_width(self) -> int:
        return self.heads * self.head_size

    def kv_bytes_per_token(self, item: int = FLOAT_BYTES) -> int:
        return 2 * self.layers * self.kv_width * item


class _Config(Struct):
    """The fields read of `config.json`, under their names there. The bounds keep absurd values from being computed
    with; what the weights really hold is compared when they are read."""

    architectures: list[str]
    vocab_size: Annotated[int, Meta(ge=1, le=2**24)]
    hidden_size: _Width
    intermediate_size: _Width
    num_hidden_layers: Annotated[int, Meta(ge=1, le=4096)]
    num_attention_heads: _Heads
    max_position_embeddings: _Context
    num_key_value_heads: _Heads | None = None
    head_dim: Annotated[int, Meta(ge=2, le=4096)] | None = None
    hidden_act: str = "silu"
    rms_norm_eps: Annotated[float, Meta(ge=0, le=1)] = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    original_max_position_embeddings: _Context | None = None
    partial_rotary_factor: float | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sliding_window: _Context | None = None
    use_sliding_window: bool = False
    max_window_layers: Annotated[int, Meta(ge=0)] = 28
    layer_types: list[str] | None = None
    quantization_config: dict[str, Any] | None = None
    eos_token_id: int | list[int] | None = None


class _Generation(Struct):
    eos_token_id: int | list[int] | None = None


def read_spec(folder: Path) -> ModelSpec:
    """Raises `ModelFolderError` where the folder is no model, or one that this engine cannot run."""
    path = folder / "config.json"
    config = read_json(path, _Config)
    try:
        _check(config)
        rope = read_rope(
            config.rope_scaling,
            config.rope_parameters,
            config.rope_theta,
            config.original_max_position_embeddings or config.max_position_embeddings,
        )
        windows = _windows(config)
    except ValueError as error:
        raise ModelFolderError(f"{path}: {error}") from error
    architecture = config.architectures[0]
    return ModelSpec(
        architecture=architecture,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads or config.num_attention_heads,
        head_size=_head_size(config),
        context_length=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        rope=rope,
        tied=config.tie_word_embeddings,
        attention_bias=architecture == "Qwen2ForCausalLM" or _biased(config),
        out_bias=_biased(config),
        mlp_bias=config.mlp_bias and architecture == "LlamaForCausalLM",
        qk_norm=architecture == "Qwen3ForCausalLM",
        windows=windows,
        eos_ids=_eos_ids(folder, config),
    )


def _biased(config: _Config) -> bool:
    """Qwen2 has its biases whatever the field says, and Mistral has none."""
    return config.attention_bias and config.architectures[0] in {"LlamaForCausalLM", "Qwen3ForCausalLM"}


def _head_size(config: _Config) -> int:
    if config.head_dim is not None:
        return config.head_dim
    # the published default of Qwen3, whose heads are wider than their part of the hidden size
    return 128 if config.architectures[0] == "Qwen3ForCausalLM" else config.hidden_size // config.num_attention_heads


def _eos_ids(folder: Path, config: _Config) -> tuple[int, ...]:
    eos = config.eos_token_id
    if (folder / "generation_config.json").exists():
        generation = read_json(folder / "generation_config.json", _Generation)
        eos = generation.eos_token_id if generation.eos_token_id is not None else eos
    ids = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    if any(not 0 <= token < config.vocab_size for token in ids):
        raise ModelFolderError(f"{folder}: eos_token_id {eos} is outside of the vocabulary of {config.vocab_size}")
    return ids


def _check(config: _Config) -> None:
    """Raises `ValueError` with the reason why this model cannot run here."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
    if not config.architectures or config.architectures[0] not in ARCHITECTURES:
        raise ValueError(
            f"architectures: {config.architectures} is not supported; the engine runs {', '.join(ARCHITECTURES)}"
        )
    if heads % kv_heads:
        raise ValueError(f"num_attention_heads: {heads} heads cannot share {kv_heads} key-value heads evenly")
    if _head_size(config) < 2 or _head_size(config) % 2:
        raise ValueError(f"head_dim: the head size {_head_size(config)} must be even for rotary embeddings")
    if config.hidden_act != "silu":
        raise ValueError(f"hidden_act: activation {config.hidden_act!r} is not supported, only 'silu'")
    if config.partial_rotary_factor not in {None, 1.0}:
        raise ValueError("partial_rotary_factor must be 1: the engine turns whole heads")
    if config.quantization_config is not None:
        raise ValueError(
            "quantization_config: quantised weights are not supported; "
            "use a folder with bfloat16, float16 or float32 weights"
        )


def _windows(config: _Config) -> tuple[int | None, ...]:
    """Mistral: `sliding_window` for all layers. Qwen: where `use_sliding_window` says so, for the layers that
    `layer_types` names, else for those from `max_window_layers` on. Llama knows no windows."""
    layers, architecture = config.num_hidden_layers, config.architectures[0]
    window = config.sliding_window
    if architecture == "LlamaForCausalLM":
        window = None
    if architecture.startswith("Qwen"):
        window = window if config.use_sliding_window else None
        types = config.layer_types
        if types is None:
            types = [
                "sliding_attention" if at >= config.max_window_layers else "full_attention" for at in range(layers)
            ]
        elif len(types) != layers or not {"full_attention", "sliding_attention"}.issuperset(types):
            raise ValueError("layer_types must name 'full_attention' or 'sliding_attention' for every layer")
        elif window is None and "sliding_attention" in types:
            raise ValueError("layer_types has sliding attention; it needs use_sliding_window and sliding_window")
    else:
        types = ["sliding_attention"] * layers
    if window is not None and window >= config.max_position_embeddings:
        window = None
    return tuple(window if kind == "sliding_attention" else None for kind in types)
