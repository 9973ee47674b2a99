"""From a model folder to a worker that has generated a token, each phase of the way timed."""

from pathlib import Path

from headgate.core.clock import Clock
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.grammar import Grammars
from headgate.engine.limits import Limits
from headgate.engine.models.spec import ModelSpec, read_spec
from headgate.engine.models.weights import read_weights
from headgate.engine.plan import Runner, SamplingParams
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.scheduler import Scheduler
from headgate.engine.settings import EngineSettings
from headgate.engine.work import Worker

FLOAT_BYTES = 4


def load(folder: Path, settings: EngineSettings, clock: Clock, phases: dict[str, float]) -> tuple[Worker, wire.Ready]:
    """Raises `ModelFolderError`. The worker given back has really generated a token; `phases` are added to."""

    def timed(name: str, since: float) -> float:
        now = clock.monotonic()
        phases[name] = now - since
        return now

    at = clock.monotonic()
    spec = read_spec(folder)
    at = timed("config", at)
    weights = read_weights(folder, spec)
    at = timed("weights", at)
    grammars = Grammars.read(folder, vocabulary=spec.vocabulary, eos_ids=spec.eos_ids)
    at = timed("grammar", at)
    limits = fit(spec, settings)
    runner = NumpyRunner(spec, weights, blocks=limits.blocks, block_size=limits.block_size)
    at = timed("kv_cache", at)
    warm_up(limits, runner, clock)
    timed("first_token", at)
    worker = Worker(Scheduler(limits), runner, clock, grammars)
    return worker, wire.Ready(limits, spec.eos_ids, phases, grammars is not None)


def fit(spec: ModelSpec, settings: EngineSettings) -> Limits:
    """How many blocks the memory gives; never more than all sequences at full length would use."""
    block_bytes = spec.kv_bytes_per_token(FLOAT_BYTES) * settings.block_size
    useful = settings.max_sequences * -(-spec.context_length // settings.block_size)
    blocks = min(settings.kv_cache_mib * 2**20 // block_bytes, useful)
    if blocks < 1:
        raise ModelFolderError(
            f"kv_cache_mib: {settings.kv_cache_mib} MiB hold no block of {settings.block_size} tokens, "
            f"which takes {block_bytes / 2**20:.1f} MiB with this model"
        )
    return Limits(
        context_length=spec.context_length,
        vocabulary=spec.vocabulary,
        blocks=blocks,
        block_size=settings.block_size,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        max_waiting=settings.max_waiting,
        step_s=settings.step_ms / 1000,
        short_first=settings.policy == "short-first",
        age_s=settings.age_s,
        prefix_cache=settings.prefix_cache,
        draft_tokens=0 if settings.speculation.method == "off" else settings.speculation.tokens,
        draft_busy=settings.speculation.busy,
    )


def warm_up(limits: Limits, runner: Runner, clock: Clock) -> None:
    """Generates tokens through a scheduler of its own, so that readiness means that inference works."""
    tokens = min(2, limits.longest - 1)
    trial = Worker(Scheduler(limits), runner, clock)
    trial.submit(wire.Submit(0, ((0,),), SamplingParams(temperature=0.0, ignore_eos=True), tokens))
    drawn = 0
    while trial.busy:
        drawn += len(trial.step())
    if drawn != tokens:
        raise RuntimeError(f"the warm-up drew {drawn} tokens instead of {tokens}")
