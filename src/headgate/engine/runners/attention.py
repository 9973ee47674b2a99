"""Attention over paged keys and values: what attends together, and how.

Keys and values of a layer are one paged array, [block, place, keys then values]; block 0 is padding. Sequences with as
many new tokens each and of similar length are a group, so that a group is a handful of array operations however many
sequences it has: single decoded tokens, and drafts. A long chunk of a prompt is cut into groups of its own, so that
scores stay small.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.models.spec import ModelSpec
from headgate.engine.plan import Slice

Floats = npt.NDArray[Any]  # float32 throughout
Ints = npt.NDArray[np.intp]

TOGETHER = 17
"""The most new tokens of a sequence that shares a group: more than a draft has are a chunk of a prompt."""
SCORES = 2**20
"""Scores computed at a time for a chunk of a prompt: 4 MiB."""
GATHERED = 2**20
"""Keys and values gathered at a time, 4 MiB, where one sequence has no more: what a cache holds is read again fast."""


class Part(Struct, frozen=True):
    """Some new tokens of one sequence: `queries` of them, from position `start` on, in rows from `row` on."""

    row: int
    start: int
    queries: int
    table: tuple[int, ...]


class Group(Struct, frozen=True):
    """Rows of a step that attend together."""

    rows: Ints | slice
    tables: Ints
    """[sequences, blocks]: only those that may be attended to."""
    length: int
    """Positions attended to, the most of the group."""
    queries: int
    """New tokens per sequence."""
    mask: Floats | None
    """Added to the scores: [sequences, 1, 1, queries, length]."""


class Attention:
    """Mixes values by attention: grouped queries (arXiv 2305.13245), causal, in windows where a layer has them."""

    def __init__(self, spec: ModelSpec, block_size: int) -> None:
        self._spec = spec
        self._block_size = block_size
        self._windows = sorted(set(spec.windows), key=lambda window: window or 0)
        self._gathered: Floats = np.empty(0, dtype=np.float32)  # kept: fresh memory would cost more than the copying

    def slots(self, slices: Iterable[Slice]) -> Ints:
        """Where each token's keys and values go: block x size + place."""
        size = self._block_size
        slots: list[int] = []
        for part in slices:
            end = part.start + len(part.tokens)
            slots.extend([part.table[at // size] * size + at % size for at in range(part.start, end)])
        return np.array(slots, dtype=np.intp)

    def groups(self, slices: tuple[Slice, ...]) -> dict[int | None, list[Group]]:
        """The groups of layers with each window that the model has."""
        borders = [0]
        for piece in slices:
            borders.append(borders[-1] + len(piece.tokens))
        shared: dict[tuple[int, int], list[Part]] = {}
        chunks: list[Part] = []
        for piece, (row, end) in zip(slices, pairwise(borders), strict=True):
            part = Part(row, piece.start, end - row, piece.table)
            if part.queries <= TOGETHER:
                shared.setdefault((part.queries, len(piece.table).bit_length()), []).append(part)
            else:
                chunks.extend(self._cut(part))
        members = [[part] for part in chunks]
        block_floats = 2 * self._spec.kv_width * self._block_size
        for (_, magnitude), parts in shared.items():
            most = max(1, GATHERED // (block_floats << magnitude))
            members.extend(parts[at : at + most] for at in range(0, len(parts), most))
        return {window: [self._group(parts, window) for parts in members] for window in self._windows}

    def _cut(self, part: Part) -> Iterable[Part]:
        most = max(TOGETHER, SCORES // (self._spec.heads * (part.start + part.queries)))
        for at in range(0, part.queries, most):
            yield Part(part.row + at, part.start + at, min(most, part.queries - at), part.table)

    def _group(self, parts: list[Part], window: int | None) -> Group:
        size, queries = self._block_size, parts[0].queries
        firsts = [0 if window is None else max(0, part.start - window + 1) // size for part in parts]
        lasts = [-(-(part.start + queries) // size) for part in parts]
        if len(parts) == 1:
            part = parts[0]
            rows: Ints | slice = slice(part.row, part.row + queries)
            tables = np.array([part.table[firsts[0] : lasts[0]]], dtype=np.intp)
            length = part.start + queries - firsts[0] * size
            if queries == 1 and (window is None or length <= window):
                return Group(rows, tables, length, 1, None)
        else:
            rows = np.array([part.row + at for part in parts for at in range(queries)], dtype=np.intp)
            blocks = max(last - first for first, last in zip(firsts, lasts, strict=True))
            tables = np.array(
                [
                    (*part.table[first:last], *((0,) * (blocks - last + first)))
                    for part, first, last in zip(parts, firsts, lasts, strict=True)
                ],
                dtype=np.intp,
            )
            length = max(part.start + queries - first * size for part, first in zip(parts, firsts, strict=True))
        starts = np.array([part.start - first * size for part, first in zip(parts, firsts, strict=True)])
        return Group(rows, tables, length, queries, _mask(starts, queries, length, window))

    def _gather(self, cache: Floats, tables: Ints) -> Floats:
        """The blocks, one after the other; valid until the next call."""
        blocks = tables.ravel()
        floats = len(blocks) * cache[0].size
        if self._gathered.size < floats:
            self._gathered = np.empty(floats, dtype=np.float32)
        out = self._gathered[:floats].reshape(len(blocks), *cache.shape[1:])
        return cache.take(blocks, axis=0, out=out, mode="clip")  # tables are right; "raise" would copy twice

    def mix(self, queries: Floats, cache: Floats, group: Group) -> Floats:
        """[rows of the group, heads x head size]. `cache` is one layer's keys and values."""
        spec = self._spec
        count, kv_heads, shared, size = len(group.tables), spec.kv_heads, spec.heads // spec.kv_heads, spec.head_size
        gathered = self._gather(cache, group.tables).reshape(count, -1, 2, kv_heads, size)[:, : group.length]
        k = gathered[:, :, 0].transpose(0, 2, 3, 1)
        v = gathered[:, :, 1].transpose(0, 2, 1, 3)
        # [sequence, kv head, (query head of the group x query), head size]
        if group.queries == 1:
            q = queries.reshape(count, kv_heads, shared, size)
        else:
            q = queries.reshape(count, group.queries, kv_heads, shared, size).transpose(0, 2, 3, 1, 4)
            q = q.reshape(count, kv_heads, shared * group.queries, size)
        scores = q @ k
        if group.mask is not None:
            by_query = scores.reshape(count, kv_heads, shared, group.queries, group.length)
            by_query += group.mask
        scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        mixed = scores @ v
        mixed /= np.add.reduce(scores, axis=-1, keepdims=True)
        if group.queries > 1:
            mixed = mixed.reshape(count, kv_heads, shared, group.queries, size).transpose(0, 3, 1, 2, 4)
        out: Floats = mixed.reshape(count * group.queries, -1)
        return out


def _mask(starts: Ints, queries: int, length: int, window: int | None) -> Floats | None:
    """What no query may see: later positions (padding among them), and those that its window has left behind."""
    at = np.arange(length)
    own = starts[:, None] + np.arange(queries)
    hidden = at > own[:, :, None]
    if window is not None:
        hidden |= at <= own[:, :, None] - window
    if not hidden.any():
        return None
    return np.where(hidden, np.float32(-np.inf), np.float32(0.0))[:, None, None]
