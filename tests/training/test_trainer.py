"""The trainer itself, which needs PyTorch: run by `make prove` where the extra `train` is installed."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import msgspec
import pytest

from headgate.training.run import TorchMissing, TrainSettings, main

SMALL = TrainSettings(
    vocabulary=700, hidden=64, intermediate=96, layers=2, heads=2, key_value_heads=1, batch_tokens=1024, batches=2,
    steps=30, minutes=5.0, threads=1, check_every=15, check_count=1, table_count=1,
)  # fmt: skip


def settings(folder: Path, steps: int, *, resume: bool = False) -> TrainSettings:
    return msgspec.structs.replace(
        SMALL, out=str(folder / "model"), work=str(folder / "work"), steps=steps, resume=resume
    )


def test_without_pytorch_the_error_says_what_to_install(tmp_path: Path) -> None:
    if find_spec("torch") is None:
        with pytest.raises(TorchMissing, match="pip install"):
            main(settings(tmp_path, 1), lambda line: None)
    else:
        assert import_module("headgate.training.recipe")


@pytest.mark.prove
def test_a_short_run_learns_resumes_and_writes_a_whole_folder(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = main(settings(tmp_path, 30), lines.append)
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"] == 2
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines if line.startswith("step ")]
    more: list[str] = []
    main(settings(tmp_path, 60, resume=True), more.append)
    losses += [float(line.split("loss ")[1].split()[0]) for line in more if line.startswith("step ")]
    assert losses[-1] < losses[0]


@pytest.mark.prove
def test_decoding_with_a_cache_agrees_with_decoding_without() -> None:
    torch, llama = import_module("torch"), import_module("headgate.training.llama")
    shape = import_module("headgate.training.shape").Shape(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    weights = llama.fresh(shape, 3)
    ids = torch.randint(0, 50, (1, 12))
    whole = llama.hidden(weights, shape, ids)
    past: list[object] = []
    parts = [llama.hidden(weights, shape, part, past) for part in ids.split((7, 1, 1, 1, 1, 1), dim=1)]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
