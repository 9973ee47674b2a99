"""The filters of `draws.py` over many rows of logits at once.

Every filter keeps a most likely part of its row, so only candidates that can pass are sorted, the rows' one after
the other in one array; a row without filters is never sorted. Weights are in float64 where a filter compares them and
in the logits' own precision elsewhere; sums are in float64.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from headgate.engine.plan import SamplingParams
from headgate.engine.sampling.draws import Floats, Ids, Row, below, mended

_NO_WEIGHT = -745.0
"""Log-weights below this are zero in float64."""
_APART = 1024.0
"""Between rows that are sorted together."""
_FEW = 64
"""So many candidates of a row are sorted as they are."""
_BINS, _BINS_PER_UNIT = 256, 8.0


class Spread:
    """What may be drawn from each of several rows of logits, [rows, vocabulary], and with which weights."""

    def __init__(self, logits: Floats, params: Sequence[SamplingParams]) -> None:
        top_k = np.array([one.top_k for one in params], dtype=np.intp)
        top_k[top_k >= logits.shape[1]] = 0
        top_p = np.array([one.top_p for one in params])
        min_p = np.array([one.min_p for one in params])
        relative = _relative(logits, np.array([one.temperature for one in params], dtype=np.float32))
        filters = (top_k > 0) | (top_p < 1.0) | (min_p > 0.0)
        self._filters = filters
        self._place = np.where(filters, np.cumsum(filters), np.cumsum(~filters)) - 1
        self._plain = self._filtered = None
        if filters.all():
            self._filtered = _Filtered(relative, top_k, top_p, min_p)
        elif not filters.any():
            self._plain = _Plain(relative)
        else:
            self._plain = _Plain(relative[~filters])
            self._filtered = _Filtered(relative[filters], top_k[filters], top_p[filters], min_p[filters])

    def draw(self, at: Floats) -> Ids:
        """Each row's token at the point `at` of [0, 1) under its cumulative weights; never one of no weight."""
        if self._filtered is None:
            assert self._plain is not None
            return self._plain.draw(at)
        if self._plain is None:
            return self._filtered.draw(at)
        tokens = np.empty(len(at), dtype=np.intp)
        tokens[self._filters] = self._filtered.draw(at[self._filters])
        tokens[~self._filters] = self._plain.draw(at[~self._filters])
        return tokens

    def row(self, index: int) -> Row:
        part = self._filtered if self._filters[index] else self._plain
        assert part is not None
        return part.row(int(self._place[index]))


def _relative(logits: Floats, temperatures: Floats) -> Floats:
    """Log-weights: the most likely token of each row has 0."""
    best = logits.max(axis=1)
    if not np.isfinite(best).all():
        logits = mended(logits)
        best = logits.max(axis=1)
    with np.errstate(over="ignore"):  # what is infinitely less likely weighs nothing
        relative: Floats = logits - best[:, None]
        relative /= temperatures[:, None]
    return relative


class _Plain:
    """Rows without a filter. Sums of blocks are searched first, then one block: two short searches."""

    def __init__(self, relative: Floats) -> None:
        self._weights = np.exp(relative)
        size = relative.shape[1]
        self._width = width = max(16, int(size**0.5))
        whole = size // width
        blocks = np.empty((len(relative), whole + 1))
        blocks[:, :-1] = self._weights[:, : whole * width].reshape(len(relative), whole, width).sum(axis=2)
        blocks[:, -1] = self._weights[:, whole * width :].sum(axis=1)
        self._sums = np.cumsum(blocks, axis=1)

    @property
    def totals(self) -> Floats:
        out: Floats = self._sums[:, -1]
        return out

    def draw(self, at: Floats) -> Ids:
        rows = np.arange(len(at))
        target = below(at * self.totals, self.totals)
        block = (self._sums <= target[:, None]).sum(axis=1)
        before = np.where(block > 0, self._sums[rows, block - 1], 0.0)
        places = block[:, None] * self._width + np.arange(self._width)
        inside = places < self._weights.shape[1]
        weights = np.where(inside, self._weights[rows[:, None], np.where(inside, places, 0)], 0.0)
        sums = np.cumsum(weights, axis=1, dtype=np.float64)
        index = (sums <= below(target - before, sums[:, -1])[:, None]).sum(axis=1)
        out: Ids = block * self._width + index
        return out

    def row(self, index: int) -> Row:
        return None, self._weights[index]


class _Filtered:
    """Rows of which only the most likely tokens are left."""

    def __init__(self, relative: Floats, top_k: Ids, top_p: Floats, min_p: Floats) -> None:
        rows, size = relative.shape
        nucleus_only = (top_k == 0) & (min_p == 0.0)
        totals = np.ones(rows)
        if nucleus_only.all():
            totals = _Plain(relative).totals
        elif nucleus_only.any():
            totals[nucleus_only] = _Plain(relative[nucleus_only]).totals
        with np.errstate(divide="ignore"):
            # What weighs less than an even share of the rest, 1 - top_p, is in no nucleus: together such tokens have
            # less than that rest. The most likely token weighs 1 and always is a candidate.
            bounds = np.log(np.where(nucleus_only, (1.0 - top_p) * totals / size, min_p))
        limited = top_k > 0
        if limited.any():
            bounds[limited] = np.maximum(bounds[limited], _kth(relative[limited], top_k[limited]))
        of, ids, values = reaching(relative, np.maximum(bounds, _NO_WEIGHT))
        if len(values) > _FEW * rows and nucleus_only.any():
            chosen = _nuclei(of, values, np.where(nucleus_only, top_p * totals, np.inf))
            of, ids, values = of[chosen], ids[chosen], values[chosen]
        order = _by_row(of, values)
        self._of, self._ids, values = of, ids[order], values[order]
        self._starts = np.searchsorted(of, np.arange(rows))
        self._weights = np.exp(values)
        sums = np.cumsum(self._weights)
        self._sums = sums - (sums[self._starts] - self._weights[self._starts])[self._of]
        kept = self._count(self._weights >= min_p[self._of])
        if limited.any():
            border = values[self._starts + np.minimum(np.where(limited, top_k, size), kept) - 1]
            kept = np.minimum(kept, self._count(values >= border[self._of]))
        self._kept = kept
        totals = np.where(nucleus_only, totals, self._held())
        enough = self._count(self._sums < (top_p * totals)[self._of]) + 1
        self._kept = np.where(top_p < 1.0, np.minimum(kept, enough), kept)

    def draw(self, at: Floats) -> Ids:
        held = self._held()
        before = self._count(self._sums <= below(at * held, held)[self._of])
        return self._ids[self._starts + np.minimum(before, self._kept - 1)]

    def row(self, index: int) -> Row:
        start = int(self._starts[index])
        part = slice(start, start + int(self._kept[index]))
        return self._ids[part], self._weights[part]

    def _held(self) -> Floats:
        out: Floats = self._sums[self._starts + self._kept - 1]
        return out

    def _count(self, which: npt.NDArray[np.bool_]) -> Ids:
        out: Ids = np.add.reduceat(which, self._starts, dtype=np.intp)
        return out


def _kth(values: Floats, count: Ids) -> Floats:
    """For each row a bound that its `count` greatest values reach, and few others: found among maxima of blocks."""
    rows, size = values.shape
    width = max(1, size // (4 * int(count.max())))
    blocks = size // width
    heads = values if width == 1 else values[:, : blocks * width].reshape(rows, blocks, width).max(axis=2)
    places = blocks - count
    out: Floats = np.partition(heads, np.unique(places), axis=1)[np.arange(rows), places]
    return out


def reaching(values: Floats, bounds: Floats) -> tuple[Ids, Ids, Floats]:
    """All values of at least their row's bound: row, id and value of each, by row."""
    # Bounds are rounded down: what is just at one must not be lost to the precision of the values.
    low = (bounds - 1e-6 * (1.0 + np.abs(bounds))).astype(values.dtype)
    places = np.flatnonzero(values >= low[:, None])
    of, ids = (np.zeros_like(places), places) if len(values) == 1 else np.divmod(places, values.shape[1])
    return of, ids, values.ravel()[places].astype(np.float64)


def _by_row(of: Ids, values: Floats) -> Ids:
    """The order by row, the greatest value first, equals as they were. Values are at most 0."""
    return np.argsort(_APART * of - np.maximum(values, 1.0 - _APART), kind="stable")


def _nuclei(of: Ids, values: Floats, needed: Floats) -> Ids:
    """Of candidates those that can be in a nucleus of weight `needed`: by sums of bins, without sorting."""
    rows = len(needed)
    bins = np.minimum(values * -_BINS_PER_UNIT, _BINS - 1).astype(np.intp)
    flat = np.bincount(of * _BINS + bins, weights=np.exp(values), minlength=rows * _BINS)
    # The bin in which the nucleus is complete, and one more: sums here and there are rounded differently.
    last = (np.cumsum(flat.reshape(rows, _BINS), axis=1) < needed[:, None]).sum(axis=1) + 1
    return np.flatnonzero(bins <= last[of])


def greatest(values: Floats, count: int) -> tuple[Ids, Floats]:
    """Each row's `count` greatest values, greatest first: ids and values, [rows, count]. They are at most 0."""
    rows, size = values.shape
    count = min(count, size)
    if count == 0:
        return np.empty((rows, 0), dtype=np.intp), np.empty((rows, 0))
    of, ids, found = reaching(values, _kth(values, np.full(rows, count)).astype(np.float64))
    order = _by_row(of, found)
    places = np.searchsorted(of, np.arange(rows))[:, None] + np.arange(count)
    return ids[order[places]], found[order[places]]
