"""Random encoders small enough for tests, as Hugging Face lays them out, and what they give, computed plainly."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.engine.tiny import Tensors, encode

BERT: dict[str, Any] = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
ROBERTA: dict[str, Any] = {
    **BERT,
    "architectures": ["RobertaModel"],
    "model_type": "roberta",
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
XLM: dict[str, Any] = {**ROBERTA, "architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta"}
LABEL = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
BERT_RANKER = {**BERT, **LABEL, "architectures": ["BertForSequenceClassification"]}
ROBERTA_RANKER = {**ROBERTA, **LABEL, "architectures": ["RobertaForSequenceClassification"]}
XLM_RANKER = {**XLM, **LABEL, "architectures": ["XLMRobertaForSequenceClassification"]}
ALL = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM,
    "bert ranker": BERT_RANKER,
    "roberta ranker": ROBERTA_RANKER,
    "xlm-roberta ranker": XLM_RANKER,
    "bert with relu": {**BERT, "hidden_act": "relu"},
}


def tensors(config: dict[str, Any], seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    ranks = "ForSequenceClassification" in config["architectures"][0]
    bert = config["model_type"] == "bert"
    prefix = ("bert." if bert else "roberta.") if ranks else ""

    def matrix(*dims: int) -> np.ndarray[Any, Any]:
        return (rng.standard_normal(dims) * 0.3).astype(np.float32)

    out: Tensors = {}

    def dense(name: str, rows: int, columns: int) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = matrix(rows, columns), matrix(rows)

    def norm(name: str) -> None:
        out[f"{name}.weight"], out[f"{name}.bias"] = 1 + matrix(hidden), matrix(hidden)

    tables = (("word", "vocab_size"), ("position", "max_position_embeddings"), ("token_type", "type_vocab_size"))
    for table, rows in tables:
        out[f"{prefix}embeddings.{table}_embeddings.weight"] = matrix(config[rows], hidden)
    norm(f"{prefix}embeddings.LayerNorm")
    for index in range(config["num_hidden_layers"]):
        layer = f"{prefix}encoder.layer.{index}."
        for name in ("query", "key", "value"):
            dense(f"{layer}attention.self.{name}", hidden, hidden)
        dense(f"{layer}attention.output.dense", hidden, hidden)
        norm(f"{layer}attention.output.LayerNorm")
        dense(f"{layer}intermediate.dense", inner, hidden)
        dense(f"{layer}output.dense", hidden, inner)
        norm(f"{layer}output.LayerNorm")
    if ranks and bert:
        dense("bert.pooler.dense", hidden, hidden)
        dense("classifier", 1, hidden)
    elif ranks:
        dense("classifier.dense", hidden, hidden)
        dense("classifier.out_proj", 1, hidden)
    return out


def write(
    folder: Path,
    config: dict[str, Any] | None = None,
    *,
    seed: int = 0,
    pooling: str | None = "mean",
    normalize: bool = True,
) -> Tensors:
    """Writes a folder of Hugging Face, and what sentence-transformers adds unless `pooling` is None."""
    config = config or BERT
    made = tensors(config, seed)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(encode(made))
    if pooling is not None:
        parts = [("", "Transformer"), ("1_Pooling", "Pooling")] + ([("2_Normalize", "Normalize")] if normalize else [])
        modules = [
            {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for place, (path, kind) in enumerate(parts)
        ]
        (folder / "modules.json").write_text(json.dumps(modules))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        kinds = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
        modes = {f"pooling_mode_{name}": kind == pooling for kind, name in kinds.items()}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    return made


def plainly(made: Tensors, config: dict[str, Any], tokens: tuple[int, ...], second: int | None = None) -> Any:
    """The last hidden states of one text, [tokens, hidden], in float64, one formula after the other."""
    prefix = next(name.removesuffix("embeddings.word_embeddings.weight") for name in made if "word_emb" in name)
    w = {name.removeprefix(prefix): value.astype(np.float64) for name, value in made.items()}
    first = 0 if config["model_type"] == "bert" else config["pad_token_id"] + 1
    segments = np.zeros(len(tokens), int)
    if second is not None:
        segments[second:] = 1
    x = w["embeddings.word_embeddings.weight"][list(tokens)]
    x = x + w["embeddings.position_embeddings.weight"][first : first + len(tokens)]
    x = x + w["embeddings.token_type_embeddings.weight"][segments]
    epsilon, heads = config["layer_norm_eps"], config["num_attention_heads"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(axis=1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + epsilon)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x: Any, name: str) -> Any:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    x = norm(x, "embeddings.LayerNorm")
    for index in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{index}."
        q, k, v = (dense(x, f"{layer}attention.self.{name}") for name in ("query", "key", "value"))
        mixed = []
        for part in np.split(np.arange(x.shape[1]), heads):
            scores = q[:, part] @ k[:, part].T / math.sqrt(len(part))
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, part])
        attended = dense(np.concatenate(mixed, axis=1), f"{layer}attention.output.dense")
        x = norm(x + attended, f"{layer}attention.output.LayerNorm")
        inner = dense(x, f"{layer}intermediate.dense")
        erf = np.vectorize(math.erf)
        inner = np.maximum(inner, 0) if config["hidden_act"] == "relu" else inner * 0.5 * (1 + erf(inner / 2**0.5))
        x = norm(x + dense(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    return x


def score(made: Tensors, config: dict[str, Any], states: Any) -> float:
    """A cross-encoder's, before any activation."""
    bert = config["model_type"] == "bert"
    inner, outer = ("bert.pooler.dense", "classifier") if bert else ("classifier.dense", "classifier.out_proj")
    hidden = np.tanh(states[0] @ made[f"{inner}.weight"].astype(float).T + made[f"{inner}.bias"])
    return float((hidden @ made[f"{outer}.weight"].astype(float).T + made[f"{outer}.bias"])[0])
