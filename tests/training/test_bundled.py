"""The model folder that ships: complete, small, and of the shape it says."""

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import headgate
from headgate.training.bpe import END, MARKS, SPECIALS
from headgate.training.mixture import SKILLS
from headgate.training.shape import Shape
from headgate.training.template import SOURCE

FOLDER = Path(headgate.__file__).parent / "engine" / "bundled" / "headgate-demo"
MOST_BYTES = 25 * 1024 * 1024


def read(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return body


@pytest.fixture(scope="module")
def header() -> dict[str, Any]:
    raw = (FOLDER / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    body: dict[str, Any] = json.loads(raw[8 : 8 + size])
    assert 8 + size + max(entry["data_offsets"][1] for entry in body.values() if "dtype" in entry) == len(raw)
    return body


def shape_told() -> Shape:
    config = read("config.json")
    return Shape(**{field: config[field] for field in Shape.__struct_fields__})


def test_the_folder_has_what_hugging_face_expects_and_stays_small() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= MOST_BYTES


def test_the_tensors_are_those_the_config_asks_for(header: dict[str, Any]) -> None:
    told = {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    assert told == shape_told().tensors()
    assert 3_000_000 <= shape_told().parameters() <= 10_000_000


def test_tensors_lie_one_after_the_other_in_bfloat16(header: dict[str, Any]) -> None:
    at = 0
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        assert entry["dtype"] == "BF16"
        assert entry["data_offsets"] == [at, at + 2 * math.prod(entry["shape"])]
        at = entry["data_offsets"][1]


def test_config_is_that_of_a_llama_and_agrees_with_itself() -> None:
    config, shape = read("config.json"), shape_told()
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert shape.num_attention_heads % shape.num_key_value_heads == 0
    assert set(config) >= set(Shape.__struct_fields__)


def test_tokenizer_and_config_agree_on_size_and_ends() -> None:
    tokenizer, config = Tokenizer.from_file(str(FOLDER / "tokenizer.json")), read("config.json")
    assert tokenizer.get_vocab_size() == config["vocab_size"]
    assert tokenizer.token_to_id(END) == config["eos_token_id"]
    assert config["eos_token_id"] in read("generation_config.json")["eos_token_id"]
    told = read("tokenizer_config.json")
    assert told["eos_token"] == END
    assert told["chat_template"] == SOURCE
    for mark in (*SPECIALS, *MARKS):
        assert told["added_tokens_decoder"][str(tokenizer.token_to_id(mark))]["content"] == mark


def test_the_shipped_tokenizer_gives_any_text_back_unchanged() -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    sample = "Zażółć gęślą jaźń · 漢字かな交じり文 · שלום · 👩🏽‍🚀🇪🇺 · x² ≠ √2 · \t\r\n\x00 · " + "".join(
        map(chr, range(32, 0x2FF))
    )
    assert tokenizer.decode(tokenizer.encode(sample, add_special_tokens=False).ids, skip_special_tokens=False) == sample


def test_the_card_says_what_the_model_is_not_for_and_measures_every_skill() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "do not use it for real work" in card
    assert "apache-2.0" in card
    for skill in SKILLS:
        assert f"| {skill} |" in card
