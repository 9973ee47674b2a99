"""From a model folder to a worker that has generated a token, each phase of the way timed and told."""

import os
from functools import partial
from pathlib import Path

import msgspec

from headgate.core.clock import Clock
from headgate.engine import wire
from headgate.engine.errors import ModelFolderError
from headgate.engine.grammars.grammar import Grammars
from headgate.engine.limits import Limits
from headgate.engine.models.json_file import read_json
from headgate.engine.models.spec import ModelSpec, read_spec
from headgate.engine.models.weights import footprint, read_weights
from headgate.engine.phases import Phases, Tell
from headgate.engine.plan import Proposer, Runner, SamplingParams
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.sampling.sampler import draft
from headgate.engine.scheduling.scheduler import Scheduler
from headgate.engine.settings import EngineSettings
from headgate.engine.speculation.draft_model import DraftModel
from headgate.engine.speculation.speculate import NGram, Pace
from headgate.engine.worker.work import Worker

FLOAT_BYTES = 4
LARGE_BYTES = 64 * 2**20
"""Weights beyond this do not fit a processor's cache."""
MOST_THREADS = 4
"""Unless the settings say so: memory's bandwidth is used up by then."""


def load(
    folder: Path, settings: EngineSettings, clock: Clock, seconds: dict[str, float], tell: Tell | None = None
) -> tuple[Worker, wire.Ready]:
    """The worker given back has really generated a token; what each phase took is added to `seconds`.

    Raises `ModelFolderError`.
    """
    phases = Phases(clock, seconds, tell)
    phases.begin("config")
    spec = read_spec(folder)
    drafter = _drafter(folder, spec, settings)
    limits = fit(spec, settings, None if drafter is None else drafter[1])
    # Its processes are copies of this one: better before the weights are there.
    phases.begin("grammar")
    grammars = Grammars.read(folder, vocabulary=spec.vocabulary, eos_ids=spec.eos_ids)
    try:
        make = partial(_runner, settings=settings, limits=limits, phases=phases)
        runner = make(folder, spec)
        proposer = _proposer(settings, spec, None if drafter is None else make(*drafter), limits)
        phases.begin("first_token")
        warm_up(limits, runner, clock)
        phases.end()
    except BaseException:
        if grammars is not None:
            grammars.close()
        raise
    pace = Pace(settings.speculation.tokens)
    worker = Worker(Scheduler(limits, proposer, pace), runner, clock, grammars)
    return worker, wire.Ready(limits, spec.eos_ids, seconds, grammars is not None)


def _runner(folder: Path, spec: ModelSpec, *, settings: EngineSettings, limits: Limits, phases: Phases) -> NumpyRunner:
    phases.begin("weights")
    weights = read_weights(folder, spec, phases.read, threads=settings.threads or _threads(spec))
    phases.begin("kv_cache")
    return NumpyRunner(spec, weights, blocks=limits.blocks, block_size=limits.block_size)


def _threads(spec: ModelSpec) -> int:
    """What fits the processor's cache is computed fastest by one."""
    if footprint(spec).weights < LARGE_BYTES:
        return 1
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_THREADS)


def _proposer(settings: EngineSettings, spec: ModelSpec, runner: Runner | None, limits: Limits) -> Proposer | None:
    if runner is not None:
        draw = partial(draft, vocabulary=spec.vocabulary)
        busy = settings.speculation.busy
        return DraftModel(runner, draw, blocks=limits.blocks, block_size=limits.block_size, busy=busy)
    return NGram() if settings.speculation.method == "ngram" else None


def _drafter(folder: Path, spec: ModelSpec, settings: EngineSettings) -> tuple[Path, ModelSpec] | None:
    """The draft model's folder and shape, where there is one; it must speak in the same tokens."""
    if settings.speculation.method != "draft":
        return None
    if settings.speculation.model is None:
        raise ModelFolderError("speculation.method is 'draft', but speculation.model names no folder. Name one.")
    smaller = Path(settings.speculation.model).expanduser()
    found = read_spec(smaller)
    if _vocabulary(folder) != _vocabulary(smaller):
        raise ModelFolderError(
            f"speculation.model: {smaller} has another vocabulary than {folder}; a draft model must have the same"
        )
    if found.context_length < spec.context_length:
        raise ModelFolderError(
            f"speculation.model: {smaller} reads {found.context_length} tokens, fewer than the {spec.context_length} "
            f"of {folder}; a draft model must read as many"
        )
    return smaller, found


class _Model(msgspec.Struct):
    vocab: msgspec.Raw = msgspec.Raw(b"")


class _Tokenizer(msgspec.Struct):
    model: _Model


def _vocabulary(folder: Path) -> bytes:
    return bytes(read_json(folder / "tokenizer.json", _Tokenizer).model.vocab)


def fit(spec: ModelSpec, settings: EngineSettings, drafter: ModelSpec | None = None) -> Limits:
    """How many blocks the memory gives; never more than all sequences at full length would use."""
    token_bytes = spec.kv_bytes_per_token(FLOAT_BYTES)
    if drafter is not None:
        token_bytes += drafter.kv_bytes_per_token(FLOAT_BYTES)
    block_bytes = token_bytes * settings.block_size
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
