"""What a folder says about an encoder: `config.json` of Hugging Face, and the files of sentence-transformers beside it.

A folder without those files pools by the mean and leaves lengths as they are, which is what sentence-transformers
does with it.
"""

from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.json_file import read_json

EMBEDS = ("BertModel", "RobertaModel", "XLMRobertaModel")
RANKS = ("BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification")
ARCHITECTURES = EMBEDS + RANKS
BERT_LIKE = ("BertModel", "BertForSequenceClassification")
_MASKED = {name.replace("Model", "ForMaskedLM"): name for name in EMBEDS}
"""Bodies published with the head they were trained with, which embedding has no use for."""
LARGEST = 2**31
LAYERS_MAX = 1_000
"""No size of a model that could be run comes near; products of such sizes are still harmless."""

Pooling = Literal["mean", "cls", "max"]
Activation = Literal["sigmoid", "identity"]
_MEAN: Pooling = "mean"


class EncoderSpec(Struct, frozen=True, kw_only=True):
    """The shape of an encoder of the BERT family: enough to name its tensors and run it."""

    architecture: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    positions: int
    first_position: int
    """The row of the position table that the first token takes: RoBERTa keeps the first ones free."""
    types: int
    """Rows of the table of segments."""
    norm_epsilon: float
    gelu: bool
    """Else ReLU."""
    max_length: int
    """Tokens of one input, special ones included."""
    pooling: Pooling = "mean"
    normalize: bool = False
    activation: Activation = "sigmoid"
    """Of a cross-encoder's score."""

    @property
    def ranks(self) -> bool:
        """A cross-encoder: reads query and document together and gives a score, no vector."""
        return self.architecture in RANKS

    @property
    def bert(self) -> bool:
        return self.architecture in BERT_LIKE

    @property
    def head_size(self) -> int:
        return self.hidden // self.heads


class _Config(Struct):
    """The fields read of `config.json`, under their names there."""

    architectures: list[str]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False
    id2label: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    sentence_transformers: dict[str, Any] | None = None
    sbert_ce_default_activation_function: str | None = None


class _Architectures(Struct):
    architectures: list[str] | None = None


class _Module(Struct):
    type: str
    path: str = ""


class _Pooling(Struct):
    pooling_mode: str | None = None
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


class _Length(Struct):
    max_seq_length: int | None = None


class _TokenizerLength(Struct):
    model_max_length: int | float | None = None


def is_encoder(folder: Path) -> bool:
    """Whether `config.json` names an architecture of this family. What cannot be read is no encoder, whatever it is."""
    try:
        found = read_json(folder / "config.json", _Architectures).architectures
    except ModelFolderError:
        return False
    return bool(found and (found[0] in ARCHITECTURES or found[0] in _MASKED))


def read_encoder_spec(folder: Path) -> EncoderSpec:
    """Raises `ModelFolderError` where the folder is no encoder, or one that this engine cannot run."""
    config = read_json(folder / "config.json", _Config)
    unsupported = _unsupported(config)
    if unsupported is not None:
        raise ModelFolderError(f"{folder / 'config.json'}: {unsupported}")
    architecture = _MASKED.get(config.architectures[0], config.architectures[0])
    first = 0 if architecture in BERT_LIKE else (config.pad_token_id or 0) + 1
    if config.max_position_embeddings <= first:
        raise ModelFolderError(
            f"{folder / 'config.json'}: max_position_embeddings {config.max_position_embeddings} leaves no position "
            f"after the {first} that this architecture keeps free"
        )
    pooling, normalize = _modules(folder) if architecture in EMBEDS else (_MEAN, False)
    return EncoderSpec(
        architecture=architecture,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        positions=config.max_position_embeddings,
        first_position=first,
        types=config.type_vocab_size,
        norm_epsilon=config.layer_norm_eps,
        gelu=config.hidden_act == "gelu",
        max_length=_max_length(folder, config.max_position_embeddings - first),
        pooling=pooling,
        normalize=normalize,
        activation=_activation(folder, config),
    )


def _unsupported(config: _Config) -> str | None:
    """Why this model cannot run here, or None."""
    sizes = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "max_position_embeddings": config.max_position_embeddings,
        "type_vocab_size": config.type_vocab_size,
    }
    known = (*ARCHITECTURES, *_MASKED)
    if not config.architectures or config.architectures[0] not in known:
        return f"architecture {config.architectures} is not supported; encoders are {', '.join(known)}"
    for name, size in sizes.items():
        most = LAYERS_MAX if name == "num_hidden_layers" else LARGEST
        if not 1 <= size <= most:
            return f"{name} must be a positive number, at most {most}, not {size}"
    if config.hidden_size % config.num_attention_heads:
        return f"hidden_size {config.hidden_size} cannot be split into {config.num_attention_heads} attention heads"
    if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
        return f"pad_token_id {config.pad_token_id} is outside of the vocabulary of {config.vocab_size}"
    if not 0 < config.layer_norm_eps < 1:
        return f"layer_norm_eps must be between 0 and 1, not {config.layer_norm_eps}"
    if config.hidden_act not in {"gelu", "relu"}:
        return f"hidden_act {config.hidden_act!r} is not supported, only 'gelu' and 'relu'"
    if config.position_embedding_type not in {None, "absolute"}:
        return f"position_embedding_type {config.position_embedding_type!r} is not supported, only 'absolute'"
    if config.is_decoder or config.add_cross_attention:
        return "is_decoder and add_cross_attention must be false: the engine runs such a model as an encoder only"
    if config.quantization_config is not None:
        return "quantised weights are not supported; use a folder with bfloat16, float16 or float32 weights"
    if config.architectures[0] in RANKS and config.id2label is not None and len(config.id2label) != 1:
        return f"id2label has {len(config.id2label)} labels; only rerankers, with exactly one, are supported"
    return None


def _modules(folder: Path) -> tuple[Pooling, bool]:
    """How `modules.json` makes one vector of a text's, and whether its length is made one."""
    path = folder / "modules.json"
    if not path.exists():
        return _MEAN, False
    pooling = _MEAN
    normalize = False
    for place, module in enumerate(read_json(path, list[_Module])):
        kind = module.type.rpartition(".")[2]
        if kind == "Transformer" and place == 0 and module.path in {"", "."}:
            continue
        if kind == "Pooling" and place == 1:
            inside = (folder / module.path).resolve()
            if not inside.is_relative_to(folder.resolve()):
                raise ModelFolderError(f"{path}: module {place} is outside of the folder: {module.path!r}")
            pooling = _pooling(inside / "config.json")
        elif kind == "Normalize" and place == 2:
            normalize = True
        else:
            raise ModelFolderError(
                f"{path}: module {place}, {module.type!r} in {module.path!r}, is not supported; "
                "the engine runs Transformer, Pooling and Normalize in this order"
            )
    return pooling, normalize


def _pooling(path: Path) -> Pooling:
    config = read_json(path, _Pooling)
    chosen = [config.pooling_mode] if config.pooling_mode is not None else []
    if not chosen:
        prefix = "pooling_mode_"
        names = (name for name in config.__struct_fields__ if name.startswith(prefix) and getattr(config, name))
        chosen = [name.removeprefix(prefix).removesuffix("_tokens").removesuffix("_token") for name in names]
    match chosen:
        case ["mean"]:
            return "mean"
        case ["cls"]:
            return "cls"
        case ["max"]:
            return "max"
        case _:
            raise ModelFolderError(f"{path}: pooling {chosen} is not supported, only one of 'mean', 'cls' and 'max'")


def _max_length(folder: Path, positions: int) -> int:
    """The least of what the positions, sentence-transformers and the tokenizer allow."""
    lengths: list[float] = [positions]
    for name in ("sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"):
        if (folder / name).exists():
            length = read_json(folder / name, _Length).max_seq_length
            if length is not None and length < 4:
                raise ModelFolderError(f"{folder / name}: max_seq_length must be at least 4, not {length}")
            lengths += [] if length is None else [length]
    if (folder / "tokenizer_config.json").exists():
        limit = read_json(folder / "tokenizer_config.json", _TokenizerLength).model_max_length
        lengths += [] if limit is None or limit < 4 else [limit]
    return int(min(lengths))


def _activation(folder: Path, config: _Config) -> Activation:
    """What sentence-transformers' cross-encoders put on the score: where the folder is silent, a sigmoid."""
    name = config.sbert_ce_default_activation_function
    if config.sentence_transformers is not None:
        name = config.sentence_transformers.get("activation_fn", name)
    match None if name is None else str(name).rpartition(".")[2]:
        case None | "Sigmoid":
            return "sigmoid"
        case "Identity":
            return "identity"
        case _:
            raise ModelFolderError(
                f"{folder / 'config.json'}: activation {name!r} is not supported, only Sigmoid and Identity"
            )
