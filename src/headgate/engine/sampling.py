"""Drawing the next token from logits: the reference that every runner follows.

The order, which matters because filters do not commute (it is vLLM's):
log-probabilities are reported from the raw logits; then the grammar mask, the suppression of end tokens before
`min_tokens`, the logit bias; the penalties (repetition over prompt and output; presence and frequency over the output
only); temperature; min-p; top-k, ties at the border kept; top-p over what is left; the draw.

Random numbers are counter-based: one uniform number per (seed, choice, position), from BLAKE2b. A sequence's text
therefore depends neither on its neighbours in the batch nor on having been preempted.
"""

import hashlib
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from headgate.engine.plan import GREEDY_BELOW, Masks, SampleSpec, SamplingParams, Score, StepResult

Floats = npt.NDArray[Any]
Ids = npt.NDArray[np.intp]

_PACK = struct.Struct("<qqq")
_UNIT = 2.0**-53


def uniform(seed: int, choice: int, position: int) -> float:
    """A number in [0, 1), the same for the same arguments, on every machine."""
    digest = hashlib.blake2b(_PACK.pack(seed, choice, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * _UNIT


def sample(logits: Floats, samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
    """One token per row of `logits` (rows x vocabulary)."""
    if not any(masks) and all(_plain_greedy(spec) for spec in samples):
        return StepResult(tuple((token,) for token in logits.argmax(axis=1).tolist()), (None,) * len(samples))
    drawn = [
        _sample_row(row, spec, None if mask is None else mask[0])
        for row, spec, mask in zip(logits, samples, masks, strict=True)
    ]
    scores = tuple(None if score is None else (score,) for _, score in drawn)
    return StepResult(tuple((token,) for token, _ in drawn), scores)


def _plain_greedy(spec: SampleSpec) -> bool:
    params = spec.params
    return params.temperature < GREEDY_BELOW and params.logprobs is None and not _adjusts(spec)


def _adjusts(spec: SampleSpec) -> bool:
    params = spec.params
    return bool(params.logit_bias or params.penalised or _holds_back_end(spec))


def _holds_back_end(spec: SampleSpec) -> bool:
    return spec.position < spec.params.min_tokens and bool(spec.params.stop_ids)


def _sample_row(row: Floats, spec: SampleSpec, mask: bytes | None) -> tuple[int, Score | None]:
    params = spec.params
    adjusted = adjust(row, spec, mask) if mask is not None or _adjusts(spec) else row
    if params.temperature < GREEDY_BELOW:
        token = int(adjusted.argmax())
    else:
        ids, weights = distribution(adjusted, params)
        token = draw(ids, weights, uniform(params.seed, spec.choice, spec.position))
    return token, None if params.logprobs is None else score(row, token, params.logprobs)


def adjust(row: Floats, spec: SampleSpec, mask: bytes | None = None) -> Floats:
    """The logits after mask, bias and penalties; `row` itself is not changed."""
    params = spec.params
    row = row.astype(np.float64)
    if mask is not None:
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")[: len(row)]
        row[: len(bits)][bits == 0] = -np.inf
        row[len(bits) :] = -np.inf
    if _holds_back_end(spec) and mask is None:  # a grammar knows better where its text may end
        row[list(params.stop_ids)] = -np.inf
    if params.logit_bias:
        ids = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
        row[ids] += np.fromiter(params.logit_bias.values(), dtype=np.float64)
    if params.penalised:
        _penalise(row, spec)
    return row


def _penalise(row: Floats, spec: SampleSpec) -> None:
    params = spec.params
    output = np.array([token for token, _ in spec.output_counts], dtype=np.intp)
    if params.repetition_penalty != 1.0:
        seen = np.union1d(output, np.array(spec.prompt_tokens, dtype=np.intp))
        values = row[seen]
        row[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if len(output):
        counts = np.array([count for _, count in spec.output_counts], dtype=np.float64)
        row[output] -= params.presence_penalty + params.frequency_penalty * counts


def distribution(row: Floats, params: SamplingParams) -> tuple[Ids | None, Floats]:
    """The tokens that may be drawn and their weights (not normalised). None for the ids: all, in order."""
    weights = row.astype(np.float64)
    best = weights.max()
    if not np.isfinite(best):  # a model that computed nonsense, or nothing is allowed: any answer will do, a crash not
        return np.array([weights.argmax()]), np.ones(1)
    weights -= best
    weights /= params.temperature
    np.exp(weights, out=weights)  # the most likely token weighs 1
    ids: Ids | None = None
    if params.min_p > 0.0:
        ids = np.flatnonzero(weights >= params.min_p)
        weights = weights[ids]
    if 0 < params.top_k < len(weights):
        border = np.partition(weights, len(weights) - params.top_k)[len(weights) - params.top_k]
        ids, weights = _keep(ids, weights, np.flatnonzero(weights >= border))
    if params.top_p < 1.0:
        ids, weights = _keep(ids, weights, _nucleus(weights, params.top_p))
    return ids, weights


def _nucleus(weights: Floats, top_p: float) -> Ids:
    """The fewest most likely tokens that together have `top_p` of the weight; at least one (arXiv 1904.09751).

    Only candidates are sorted: what weighs less than an even share of the rest, `1 - top_p`, adds up to less than that
    rest, so the nucleus is complete before it. The most likely token weighs 1 here and is always a candidate.
    """
    total = weights.sum()
    candidates = np.flatnonzero(weights >= (1.0 - top_p) * total / len(weights))
    held = weights[candidates]
    order = np.argsort(-held, kind="stable")
    enough = int(np.searchsorted(np.cumsum(held[order]), top_p * total, side="left")) + 1
    nucleus: Ids = candidates[order[:enough]]
    return nucleus


def _keep(ids: Ids | None, weights: Floats, kept: Ids) -> tuple[Ids, Floats]:
    return (kept if ids is None else ids[kept]), weights[kept]


def draw(ids: Ids | None, weights: Floats, at: float) -> int:
    """The token at the point `at` of [0, 1) under the cumulative weights."""
    cumulative = np.cumsum(weights)
    # The last bound keeps the index valid where rounding would pass the end.
    index = min(int(np.searchsorted(cumulative, at * cumulative[-1], side="right")), len(weights) - 1)
    return index if ids is None else int(ids[index])


def score(row: Floats, token: int, top: int) -> Score:
    """Log-probabilities of `token` and of the `top` most likely tokens, under the raw logits."""
    logprobs = row.astype(np.float64)
    logprobs -= logprobs.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    if top == 0:
        return Score(float(logprobs[token]))
    top = min(top, len(logprobs))
    best = np.argpartition(-logprobs, top - 1)[:top]
    best = best[np.argsort(-logprobs[best], kind="stable")]
    return Score(float(logprobs[token]), tuple((int(one), float(logprobs[one])) for one in best))
