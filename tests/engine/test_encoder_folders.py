"""Folders of encoders that are damaged, hostile or not supported are refused: the file, the field, a remedy."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.encoder_spec import is_encoder, read_encoder_spec
from headgate.engine.models.encoder_weights import read_encoder_weights
from tests.engine import encoders, tiny


def load(folder: Path) -> None:
    read_encoder_weights(folder, read_encoder_spec(folder))


def refused(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as found:
        load(folder)
    return str(found.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_act": "silu"}, ["config.json", "hidden_act", "'gelu'"]),
        ({"hidden_size": 33}, ["hidden_size 33", "4 attention heads"]),
        ({"num_attention_heads": 0}, ["num_attention_heads", "positive"]),
        ({"num_hidden_layers": 10**9}, ["num_hidden_layers", "at most 1000"]),
        ({"num_hidden_layers": 3}, ["no tensor", "encoder.layer.2."]),
        ({"num_hidden_layers": 2**40}, ["num_hidden_layers", "positive"]),
        ({"vocab_size": 2**31 - 1}, ["word_embeddings", "shape", "config.json says"]),
        ({"layer_norm_eps": -1.0}, ["layer_norm_eps"]),
        ({"position_embedding_type": "relative_key"}, ["position_embedding_type", "absolute"]),
        ({"is_decoder": True}, ["is_decoder"]),
        ({"pad_token_id": 500}, ["pad_token_id 500", "vocabulary"]),
        ({"quantization_config": {}}, ["quantised"]),
        ({"architectures": ["BertForQuestionAnswering"]}, ["BertForQuestionAnswering", "not supported"]),
        ({"architectures": []}, ["architecture"]),
        ({"vocab_size": "many"}, ["config.json", "vocab_size"]),
    ],
)
def test_configurations_that_cannot_be_run_are_named(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    encoders.write(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**encoders.BERT, **changes}))
    message = refused(tmp_path)
    assert all(word in message for word in words), message


def test_roberta_without_a_position_to_use_is_refused(tmp_path: Path) -> None:
    encoders.write(tmp_path, encoders.ROBERTA)
    (tmp_path / "config.json").write_text(json.dumps({**encoders.ROBERTA, "max_position_embeddings": 2}))
    assert "max_position_embeddings 2" in refused(tmp_path)


def test_a_classifier_of_several_labels_is_no_reranker(tmp_path: Path) -> None:
    encoders.write(tmp_path, encoders.BERT_RANKER)
    (tmp_path / "config.json").write_text(json.dumps({**encoders.BERT_RANKER, "id2label": {"0": "a", "1": "b"}}))
    assert "2 labels" in refused(tmp_path)
    silent = {name: value for name, value in encoders.BERT_RANKER.items() if name != "id2label"}
    (tmp_path / "config.json").write_text(json.dumps(silent))
    load(tmp_path)


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "No such file"]),
        (lambda f: (f / "model.safetensors").write_bytes(b""), ["model.safetensors", "shorter"]),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 64), ["model.safetensors", "header"]),
        (lambda f: (f / "config.json").unlink(), ["config.json", "No such file"]),
        (lambda f: (f / "config.json").write_text("[" * 100_000), ["config.json"]),
        (lambda f: (f / "config.json").write_bytes(b'{"architectures": ["\xff"]}'), ["config.json", "no JSON"]),
        (lambda f: (f / "modules.json").write_text("{}"), ["modules.json"]),
        (lambda f: _module(f, "../..", "Pooling"), ["modules.json", "outside"]),
        (lambda f: _module(f, "2_Dense", "Dense"), ["modules.json", "Dense", "not supported"]),
        (lambda f: _pool(f, {"pooling_mode_lasttoken": True}), ["1_Pooling", "lasttoken", "'mean'"]),
        (lambda f: _pool(f, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}), ["cls", "only one"]),
        (lambda f: _pool(f, {}), ["1_Pooling", "pooling"]),
        (lambda f: (f / "sentence_bert_config.json").write_text('{"max_seq_length": 0}'), ["max_seq_length"]),
    ],
)
def test_damaged_folders_are_refused_with_the_file_in_question(tmp_path: Path, spoil: Spoil, words: list[str]) -> None:
    encoders.write(tmp_path)
    spoil(tmp_path)
    message = refused(tmp_path)
    assert all(word in message for word in words), message


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    made = encoders.write(tmp_path)
    made["encoder.layer.1.output.dense.bias"][3] = float("nan")
    (tmp_path / "model.safetensors").write_bytes(tiny.encode(made))
    assert "encoder.layer.1.output.dense.bias" in refused(tmp_path)


def _module(folder: Path, path: str, kind: str) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[1] |= {"path": path, "type": f"sentence_transformers.models.{kind}"}
    (folder / "modules.json").write_text(json.dumps(modules))


def _pool(folder: Path, config: dict[str, Any]) -> None:
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def test_lengths_are_the_least_of_what_the_files_allow(tmp_path: Path) -> None:
    encoders.write(tmp_path)
    assert read_encoder_spec(tmp_path).max_length == 64
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert read_encoder_spec(tmp_path).max_length == 64
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 50}')
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 40}')
    assert read_encoder_spec(tmp_path).max_length == 40
    encoders.write(tmp_path / "roberta", encoders.ROBERTA)
    assert read_encoder_spec(tmp_path / "roberta").max_length == 62


def test_the_newer_spelling_of_pooling_is_read(tmp_path: Path) -> None:
    encoders.write(tmp_path)
    _pool(tmp_path, {"embedding_dimension": 32, "pooling_mode": "cls"})
    assert read_encoder_spec(tmp_path).pooling == "cls"


def test_encoders_are_told_from_decoders(tmp_path: Path) -> None:
    encoders.write(tmp_path / "encoder")
    tiny.write(tmp_path / "decoder")
    assert is_encoder(tmp_path / "encoder")
    assert not is_encoder(tmp_path / "decoder")
    assert not is_encoder(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"architectures": ["\xff"]}')
    assert not is_encoder(tmp_path)
