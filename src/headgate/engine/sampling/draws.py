"""Random numbers, and the token they point at: temperature, min-p, top-k and top-p over one row of logits.

`spread.py` does the same for many rows at once; this is the plain way, and the faster one for a few short rows.
"""

import hashlib
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from headgate.engine.plan import SamplingParams

Floats = npt.NDArray[Any]
Ids = npt.NDArray[np.intp]
Row = tuple[Ids | None, Floats]
"""Tokens that may be drawn, the most likely first, and their weights, not normalised. None: all, in order of ids."""

DRAW, ACCEPT, RECOVER = range(3)
"""What a number is for. A draft is drawn with the number that the model itself would have drawn with."""

LOWEST = float(np.finfo(np.float32).min)
"""Less likely than every number, but not forbidden."""
_PACK = struct.Struct("<qqqq")
_UNIT = 2.0**-53


def uniform(seed: int, choice: int, position: int, purpose: int = DRAW) -> float:
    """A number in [0, 1), the same for the same arguments, on every machine."""
    digest = hashlib.blake2b(_PACK.pack(seed, choice, position, purpose), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * _UNIT


def filtered(logits: Floats, params: SamplingParams) -> Row:
    """What may be drawn from one row of logits, [vocabulary]."""
    weights = logits.astype(np.float64)
    best = weights.max()
    if not np.isfinite(best):
        weights = mended(weights[None])[0]
        best = weights.max()
    weights -= best
    with np.errstate(over="ignore"):  # what is infinitely less likely weighs nothing
        weights /= params.temperature
    np.exp(weights, out=weights)  # the most likely token weighs 1
    total, bound = 0.0, params.min_p
    if 0 < params.top_k < len(weights):
        bound = max(bound, float(np.partition(weights, len(weights) - params.top_k)[len(weights) - params.top_k]))
    elif params.min_p == 0.0:
        if params.top_p >= 1.0:
            return None, weights
        total = weights.sum()
        # What weighs less than an even share of the rest, 1 - top_p, is in no nucleus: together it has less than that.
        bound = (1.0 - params.top_p) * total / len(weights) * (1.0 - 1e-9)
    ids = np.flatnonzero(weights >= bound)
    weights = weights[ids]
    order = np.argsort(-weights, kind="stable")
    ids, weights = ids[order], weights[order]
    if params.top_p < 1.0:
        sums = np.cumsum(weights)
        enough = int(np.searchsorted(sums, params.top_p * (total or sums[-1]), side="left")) + 1
        ids, weights = ids[:enough], weights[:enough]
    return ids, weights


def mended(logits: Floats) -> Floats:
    """Rows of a model that computed nonsense, or where nothing is allowed: any answer will do, a crash not."""
    out = np.where(np.isnan(logits), LOWEST, logits)
    endless = out.max(axis=1) == np.inf
    out[endless] = np.where(out[endless] == np.inf, 0.0, -np.inf)
    out[out.max(axis=1) == -np.inf, 0] = 0.0
    return out


def pick(row: Row, at: float) -> int:
    """The token at the point `at` of [0, 1) under the cumulative weights; never one of no weight."""
    ids, weights = row
    sums = np.cumsum(weights, dtype=np.float64)
    index = int(np.searchsorted(sums, below(at * sums[-1], sums[-1]), side="right"))
    return index if ids is None else int(ids[index])


def below(target: Floats, end: Floats) -> Floats:
    """Points before `end`, also where rounding would pass it."""
    out: Floats = np.minimum(target, np.nextafter(end, 0.0))
    return out
