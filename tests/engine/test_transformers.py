"""Every family and option against the transformers library: the same logits, and the same greedy text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headgate.engine.plan import Slice
from tests.engine.drive import Engine, limits
from tests.engine.families import FAMILIES, Sequence, model, relative, run, runner, tables

FEW = ["llama, llama3 rope", "qwen2, windows in the upper layers", "qwen3", "mistral, window"]
LENGTH = 200
MODEL_TYPES = {"Llama": "llama", "Qwen2": "qwen2", "Qwen3": "qwen3", "Mistral": "mistral"}


class Theirs:
    """The same folder, computed by the library in float32 and without a cache."""

    def __init__(self, folder: Path) -> None:
        self.torch = pytest.importorskip("torch")
        library = pytest.importorskip("transformers")
        path = folder / "config.json"
        shape = json.loads(path.read_text())
        family = shape["architectures"][0].removesuffix("ForCausalLM")
        path.write_text(json.dumps({key: value for key, value in shape.items() if value is not None}
                                   | {"model_type": MODEL_TYPES[family]} | self._nothing(shape)))  # fmt: skip
        self.model = library.AutoModelForCausalLM.from_pretrained(
            folder, dtype=self.torch.float32, attn_implementation="eager"
        ).eval()

    def _nothing(self, shape: dict[str, Any]) -> dict[str, None]:
        """Where nothing is said, the library has defaults: say that there is no window."""
        return {"sliding_window": None} if shape.get("sliding_window") is None else {}

    def logits(self, tokens: list[int]) -> Any:
        with self.torch.no_grad():
            return self.model(self.torch.tensor([tokens]), use_cache=False).logits[0].double().numpy()

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        """Without the library's cache where the window is of one token: its slice, from -1 + 1 on, keeps all there."""
        cached = getattr(self.model.config, "sliding_window", None) != 1
        tokens = self.torch.tensor([prompt])
        with self.torch.no_grad():
            out = self.model.generate(
                tokens, attention_mask=self.torch.ones_like(tokens), do_sample=False, use_cache=cached,
                max_new_tokens=count, min_new_tokens=count, eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        return [int(token) for token in out[0, len(prompt) :]]


def agrees(folder: Path, name: str, **changes: Any) -> None:
    model(folder, name, **changes)
    theirs = Theirs(folder)
    tokens = np.random.default_rng(7).integers(0, 97, 150).tolist()
    expected = theirs.logits(tokens)
    one = runner(folder)
    table = tables(1, 20)[0]
    assert relative(run(one, Slice(0, tuple(tokens), 0, table, 150)), expected) < 1e-3
    sequence = Sequence(0, tokens, table)
    rows = [run(one, sequence.slice(count, count)) for count in [1] * 40 + [5] * 6 + [80]]
    assert relative(np.concatenate(rows), expected) < 1e-3


@pytest.mark.parametrize("name", FEW)
@pytest.mark.filterwarnings("ignore")
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    agrees(tmp_path, name)


@pytest.mark.prove
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_logits_of_every_option_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    agrees(tmp_path / "as-is", name)
    agrees(tmp_path / "untied", name, tie_word_embeddings=False, num_attention_heads=6, hidden_size=48)
    agrees(tmp_path / "wide", name, hidden_size=128, intermediate_size=1300, num_hidden_layers=2, head_dim=32)


@pytest.mark.prove
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_greedy_text_is_that_of_transformers_for_200_tokens_in_a_crowd(name: str, tmp_path: Path) -> None:
    model(tmp_path, name)
    theirs = Theirs(tmp_path)
    rng = np.random.default_rng(8)
    prompts = [rng.integers(0, 97, length).tolist() for length in (1, 9, 40, 77)]
    size = limits(blocks=200, max_batch_tokens=40)
    engine = Engine(runner(tmp_path, blocks=200), size)
    for prompt in prompts:
        engine.submit(prompt, LENGTH)
        engine.step()
    texts = engine.run()
    for key, prompt in enumerate(prompts):
        assert texts[key] == theirs.greedy(prompt, LENGTH)
