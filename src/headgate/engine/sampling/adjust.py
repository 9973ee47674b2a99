"""What changes logits before anything is drawn: mask, held-back ends, bias and penalties, in this order."""

from collections import Counter

import numpy as np

from headgate.engine.plan import SampleSpec
from headgate.engine.sampling.draws import Floats


def at_row(spec: SampleSpec, place: int) -> SampleSpec:
    """How to draw what follows the first `place` tokens of the draft."""
    if place == 0 or spec.draft is None:
        return spec
    counts = spec.output_counts
    if spec.params.penalised:
        counted = Counter(dict(counts))
        counted.update(spec.draft.tokens[:place])
        counts = tuple(counted.items())
    return SampleSpec(spec.params, spec.choice, spec.position + place, counts, spec.prompt_tokens)


def adjusts(spec: SampleSpec) -> bool:
    """Something besides a mask changes the logits."""
    params = spec.params
    return bool(params.logit_bias) or params.penalised or _holds_back_end(spec)


def _holds_back_end(spec: SampleSpec) -> bool:
    return spec.position < spec.params.min_tokens and bool(spec.params.stop_ids)


def adjust(row: Floats, spec: SampleSpec, mask: bytes | None = None) -> None:
    """Changes one row of logits, [vocabulary], in place."""
    params = spec.params
    if mask is not None:
        bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), count=len(row), bitorder="little")
        np.copyto(row, -np.inf, where=bits == 0)
    elif _holds_back_end(spec):  # a grammar knows better where its text may end
        row[list(params.stop_ids)] = -np.inf
    if params.logit_bias:
        ids = np.fromiter(params.logit_bias.keys(), dtype=np.intp)
        row[ids] += np.fromiter(params.logit_bias.values(), dtype=np.float64)
    if params.penalised:
        _penalise(row, spec)


def _penalise(row: Floats, spec: SampleSpec) -> None:
    params = spec.params
    output = np.array([token for token, _ in spec.output_counts], dtype=np.intp)
    if params.repetition_penalty != 1.0:
        seen = np.union1d(output, np.array(spec.prompt_tokens, dtype=np.intp))
        values = row[seen]
        row[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if len(output) and (params.presence_penalty or params.frequency_penalty):
        counts = np.array([count for _, count in spec.output_counts], dtype=np.float64)
        row[output] -= params.presence_penalty + params.frequency_penalty * counts
