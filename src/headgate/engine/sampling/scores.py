"""Log-probabilities under the raw logits, as callers are told them."""

from collections.abc import Sequence

import numpy as np

from headgate.engine.plan import Score
from headgate.engine.sampling.draws import Floats
from headgate.engine.sampling.spread import greatest

NEVER = -9999.0
"""Stands for a log-probability that is no finite number, as OpenAI has it: JSON knows no infinity."""


def scores(logits: Floats, tokens: Sequence[int], top: Sequence[int]) -> list[Score]:
    """For each row of [rows, vocabulary]: of its token, and of its `top` most likely ones."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        best = logits.max(axis=1)
        relative = logits - best[:, None]
        norms = np.log(np.exp(relative).sum(axis=1, dtype=np.float64))
        drawn = relative[np.arange(len(tokens)), list(tokens)] - norms
    sound = np.isfinite(norms).all()
    most = max(top) if sound else 0
    ids, values = greatest(relative, most)
    values = np.maximum(values - norms[:, None], NEVER)
    values = np.where(np.isnan(values), NEVER, values)
    pairs = [list(zip(*row, strict=True)) for row in zip(ids.tolist(), values.tolist(), strict=True)]
    chosen = np.where(np.isfinite(drawn), drawn, NEVER).tolist()
    return [Score(one, tuple(row[:count])) for one, row, count in zip(chosen, pairs, top, strict=True)]
