"""From an encoder's folder to a worker that has encoded a text, each phase of the way timed."""

from pathlib import Path

import numpy as np

from headgate.core.clock import Clock
from headgate.engine import wire
from headgate.engine.encoder_wire import EncoderFacts, Text
from headgate.engine.encoding.work import EncoderWorker
from headgate.engine.errors import ModelFolderError
from headgate.engine.limits import Limits
from headgate.engine.models.encoder_spec import EncoderSpec, read_encoder_spec
from headgate.engine.models.encoder_weights import read_encoder_weights
from headgate.engine.phases import Phases, Tell
from headgate.engine.runners.encoder_runner import EncoderRunner
from headgate.engine.settings import EngineSettings


def load_encoder(
    folder: Path, settings: EngineSettings, clock: Clock, seconds: dict[str, float], tell: Tell | None = None
) -> tuple[EncoderWorker, wire.Ready]:
    """The runner has really encoded a text; what each phase took is added to `seconds`. Raises `ModelFolderError`."""
    phases = Phases(clock, seconds, tell)
    phases.begin("config")
    spec = read_encoder_spec(folder)
    phases.begin("weights")
    runner = EncoderRunner(spec, read_encoder_weights(folder, spec, phases.read))
    phases.begin("first_text")
    length = min(8, spec.max_length)
    trial = runner.encode([Text(tuple(range(min(length, spec.vocabulary)))), Text((0,))])
    if not np.isfinite(trial).all():
        raise ModelFolderError(f"{folder}: the model gives no finite numbers: its weights are damaged or too large")
    phases.end()
    most = settings.encoder.max_waiting
    facts = EncoderFacts(
        max_length=spec.max_length, vocabulary=spec.vocabulary, size=runner.size, ranks=spec.ranks, max_waiting=most
    )
    worker = EncoderWorker(runner, settings.encoder, clock)
    return worker, wire.Ready(_limits(spec, settings), (), seconds, encoder=facts)


def _limits(spec: EncoderSpec, settings: EngineSettings) -> Limits:
    """An encoder keeps nothing of a text, so its lengths are those of the model alone."""
    return Limits(
        context_length=spec.max_length,
        vocabulary=spec.vocabulary,
        blocks=spec.max_length,
        block_size=1,
        max_batch_tokens=settings.encoder.max_batch_tokens,
        max_sequences=settings.encoder.max_waiting,
        max_waiting=settings.encoder.max_waiting,
    )
