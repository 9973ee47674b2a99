"""`headgate train`: one call that trains the demonstration model and writes its folder."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import msgspec

from headgate.core.clock import Clock, SystemClock


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `headgate train` can be told. `work` keeps the checkpoint; a run goes on from it when `resume` is set.

    `note` is put into the model card, under how the model was made.
    """

    out: str = "headgate-demo"
    work: str = "headgate-train"
    seed: int = 1
    steps: int = 20000
    minutes: float = 65.0
    threads: int = 2
    bfloat16: bool = True
    vocabulary: int = 2048
    hidden: int = 256
    intermediate: int = 576
    layers: int = 6
    heads: int = 4
    key_value_heads: int = 2
    batch_tokens: int = 1024
    batches: int = 4
    muon_rate: float = 0.005
    adam_rate: float = 0.004
    check_every: int = 300
    check_count: int = 40
    table_count: int = 300
    resume: bool = False
    note: str = ""


class TorchMissing(RuntimeError):
    """Training needs PyTorch: pip install 'headgate[train]'"""


def main(settings: TrainSettings, report: Callable[[str], None], clock: Clock | None = None) -> Path:
    """Trains by the settings and returns the model folder. Raises `TorchMissing` where PyTorch is not installed."""
    if find_spec("torch") is None:
        raise TorchMissing("training needs PyTorch: pip install 'headgate[train]'")
    recipe = import_module("headgate.training.recipe")
    folder: Path = recipe.cook(settings, report, clock or SystemClock())
    return folder
