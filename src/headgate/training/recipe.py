"""The recipe from tokenizer to model card. Needs PyTorch; `run` imports it when asked to train."""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from headgate.core.clock import Clock
from headgate.training import bpe, card, export
from headgate.training.run import TrainSettings
from headgate.training.shape import Shape
from headgate.training.trainer import Plan, Trainer


def shape_of(settings: TrainSettings, tokenizer: Tokenizer) -> Shape:
    """The shape the settings ask for."""
    return Shape(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        head_dim=settings.hidden // settings.heads,
    )


def plan_of(settings: TrainSettings) -> Plan:
    """The plan the settings ask for."""
    return Plan(
        steps=settings.steps,
        minutes=settings.minutes,
        batch_tokens=settings.batch_tokens,
        batches=settings.batches,
        muon_rate=settings.muon_rate,
        adam_rate=settings.adam_rate,
        threads=settings.threads,
        bfloat16=settings.bfloat16,
        seed=settings.seed,
        check_every=settings.check_every,
        check_count=settings.check_count,
    )


def as_bytes(weights: dict[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The weights in bfloat16, ready for `export`."""
    return {
        name: ("BF16", tuple(weight.shape), bytes(weight.bfloat16().contiguous().view(torch.int16).numpy().tobytes()))
        for name, weight in weights.items()
    }


def cook(settings: TrainSettings, report: Callable[[str], None], clock: Clock) -> Path:
    """Tokenizer, training, export, skill table of the exported weights, model card."""
    work, folder = Path(settings.work), Path(settings.out)
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "tokenizer.json"
    if settings.resume and kept.exists():
        tokenizer = Tokenizer.from_file(str(kept))
    else:
        tokenizer = bpe.build(settings.seed, settings.vocabulary)
        tokenizer.save(str(kept))
    shape = shape_of(settings, tokenizer)
    report(f"{shape.parameters():,} parameters, {shape.vocab_size} tokens in the vocabulary")
    trainer = Trainer(shape, plan_of(settings), tokenizer, clock)
    checkpoint = work / "checkpoint.pt"
    if settings.resume and checkpoint.exists():
        trainer.load(checkpoint)
    trained = trainer.run(checkpoint, report)
    with torch.no_grad():
        for weight in trainer.weights.values():
            weight.copy_(weight.bfloat16().float())  # the table is that of the weights that ship
    export.write(folder, shape, tokenizer, as_bytes(trained.weights))
    scores = trainer.scores(settings.seed + 1000, settings.table_count)
    facts = card.Facts(
        parameters=shape.parameters(), shape=shape, steps=trained.steps, tokens=trained.tokens, seconds=trained.seconds,
        seed=settings.seed, table_seed=settings.seed + 1000, now=clock.now(), note=settings.note,
    )  # fmt: skip
    (folder / "README.md").write_text(card.write(facts, scores), encoding="utf-8")
    report(f"written to {folder}")
    return folder
