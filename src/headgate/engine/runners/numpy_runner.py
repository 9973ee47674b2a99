"""Llama-style decoders in NumPy: one matrix product per linear layer for all tokens of a step, attention by sequence.

Keys and values live in one paged array per layer, [block, place, width]; block 0 is padding. Single decoded tokens are
attended to in groups of similar length, so that a group is a handful of array operations however many sequences it
has; a chunk of a prompt is attended to alone, causally.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.models.spec import ModelSpec, rope_frequencies
from headgate.engine.models.weights import LayerWeights, Weights
from headgate.engine.plan import Masks, SampleSpec, Slice, StepPlan, StepResult
from headgate.engine.sampling import sample

Floats = npt.NDArray[Any]  # float32 throughout
Ints = npt.NDArray[np.intp]


class _Group(Struct, frozen=True):
    """Rows of a step that attend together: several decodes of similar length, or one chunk."""

    rows: Ints | slice
    tables: Ints
    """[sequences, blocks]"""
    length: int
    """Positions attended to, the longest of the group."""
    queries: int
    """Query tokens per sequence."""
    mask: Floats | None
    """Added to the scores: [sequences, 1, 1, length] or [1, 1, queries, length]."""


class NumpyRunner:
    """Holds the weights and the KV cache of `blocks` blocks besides the padding one."""

    def __init__(self, spec: ModelSpec, weights: Weights, *, blocks: int, block_size: int) -> None:
        self.spec = spec
        self._weights = weights
        self._block_size = block_size
        shape = (spec.layers, blocks + 1, block_size, spec.kv_width)
        self._keys: Floats = np.zeros(shape, dtype=np.float32)  # the system commits pages as they are written
        self._values: Floats = np.zeros(shape, dtype=np.float32)
        angles = np.outer(np.arange(spec.context_length), np.array(rope_frequencies(spec)))
        self._rotations = np.exp(1j * angles).astype(np.complex64)[:, None, :]

    def forward(self, plan: StepPlan) -> Floats:
        """Logits of the wanted rows, [rows, vocabulary]."""
        for source, target in plan.copies:
            self._keys[:, target] = self._keys[:, source]
            self._values[:, target] = self._values[:, source]
        slices = plan.slices
        tokens = np.array([token for part in slices for token in part.tokens], dtype=np.intp)
        positions = np.concatenate([np.arange(part.start, part.start + len(part.tokens)) for part in slices])
        slots = self._slots(slices)
        groups = self._groups(slices)
        rotations = self._rotations[positions]
        x = self._weights.embeddings[tokens]
        with np.errstate(over="ignore"):  # exp(-gate) may be infinite: the product is then the zero it should be
            for index, layer in enumerate(self._weights.layers):
                qkv = self._normed(x) @ layer.qkv
                x += self._attend(index, layer, qkv, rotations, slots, groups)
                x += self._mlp(layer, self._normed(x))
        ends = np.cumsum([len(part.tokens) for part in slices]).tolist()
        wanted = [row for part, end in zip(slices, ends, strict=True) for row in range(end - part.wants, end)]
        return self._normed(x[wanted]) @ self._weights.head

    def sample(self, logits: Floats, samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
        return sample(logits, samples, masks)

    def _normed(self, x: Floats) -> Floats:
        """RMS norm without its weights, which are in the next matrix (arXiv 1910.07467)."""
        scale: Floats = np.vecdot(x, x)
        scale /= x.shape[1]
        scale += self.spec.norm_epsilon
        np.sqrt(scale, out=scale)
        normed: Floats = x / scale[:, None]
        return normed

    def _mlp(self, layer: LayerWeights, x: Floats) -> Floats:
        both = x @ layer.gate_up
        gate, up = both[:, : self.spec.intermediate], both[:, self.spec.intermediate :]
        gated = np.negative(gate)
        np.exp(gated, out=gated)
        gated += 1.0
        np.divide(gate, gated, out=gated)
        gated *= up
        out: Floats = gated @ layer.down
        return out

    def _attend(
        self,
        index: int,
        layer: LayerWeights,
        qkv: Floats,
        rotations: npt.NDArray[np.complex64],
        slots: Ints,
        groups: list[_Group],
    ) -> Floats:
        spec = self.spec
        if layer.qkv_bias is not None:
            qkv += layer.qkv_bias
        rows = len(qkv)
        pairs = qkv.view(np.complex64).reshape(rows, -1, spec.head_size // 2)
        pairs[:, : spec.heads + spec.kv_heads] *= rotations
        q_width, kv_width = spec.heads * spec.head_size, spec.kv_width
        keys, values = self._keys[index], self._values[index]
        keys.reshape(-1, kv_width)[slots] = qkv[:, q_width : q_width + kv_width]
        values.reshape(-1, kv_width)[slots] = qkv[:, q_width + kv_width :]
        queries = qkv[:, :q_width]
        mixed = np.empty((rows, q_width), dtype=np.float32)
        for group in groups:
            mixed[group.rows] = self._mix(queries[group.rows], keys, values, group)
        out: Floats = mixed @ layer.attention_out
        return out

    def _mix(self, queries: Floats, keys: Floats, values: Floats, group: _Group) -> Floats:
        """Attention of one group: grouped queries (arXiv 2305.13245) over gathered blocks."""
        spec = self.spec
        count, shared = len(group.tables), spec.heads // spec.kv_heads
        # [sequence, kv head, (query head of the group x query), head size]
        q = queries.reshape(count, group.queries, spec.kv_heads, shared, spec.head_size).transpose(0, 2, 3, 1, 4)
        q = q.reshape(count, spec.kv_heads, shared * group.queries, spec.head_size)
        k = self._gather(keys, group).transpose(0, 2, 3, 1)
        scores = (q @ k).reshape(count, spec.kv_heads, shared, group.queries, group.length)
        if group.mask is not None:
            scores += group.mask
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        v = self._gather(values, group).transpose(0, 2, 1, 3)
        mixed = scores.reshape(count, spec.kv_heads, -1, group.length) @ v
        mixed = mixed.reshape(count, spec.kv_heads, shared, group.queries, spec.head_size).transpose(0, 3, 1, 2, 4)
        out: Floats = mixed.reshape(count * group.queries, -1)
        return out

    def _gather(self, cache: Floats, group: _Group) -> Floats:
        """[sequence, position, kv head, head size]"""
        gathered = cache.take(group.tables, axis=0)
        gathered = gathered.reshape(len(group.tables), -1, self.spec.kv_heads, self.spec.head_size)
        out: Floats = gathered[:, : group.length]
        return out

    def _slots(self, slices: tuple[Slice, ...]) -> Ints:
        """Where each token's keys and values go: block x size + place."""
        size = self._block_size
        slots: list[int] = []
        for part in slices:
            end = part.start + len(part.tokens)
            slots.extend(part.table[at // size] * size + at % size for at in range(part.start, end))
        return np.array(slots, dtype=np.intp)

    def _groups(self, slices: tuple[Slice, ...]) -> list[_Group]:
        """Decodes whose block counts share a power of two go together; every chunk is a group of its own."""
        borders = [0, *np.cumsum([len(part.tokens) for part in slices]).tolist()]
        groups: list[_Group] = []
        decodes: dict[int, list[tuple[int, Slice]]] = {}
        for part, (row, end) in zip(slices, pairwise(borders), strict=True):
            if end - row == 1:
                decodes.setdefault(len(part.table).bit_length(), []).append((row, part))
            else:
                groups.append(_chunk(part, row))
        groups.extend(_together(members) for members in decodes.values())
        return groups


def _chunk(part: Slice, row: int) -> _Group:
    count = len(part.tokens)
    length = part.start + count
    later = np.arange(length)[None, :] > np.arange(part.start, length)[:, None]
    mask = np.where(later, np.float32(-np.inf), np.float32(0.0))[None, None, None]
    return _Group(slice(row, row + count), np.array([part.table], dtype=np.intp), length, count, mask)


def _together(members: list[tuple[int, Slice]]) -> _Group:
    rows = np.array([row for row, _ in members], dtype=np.intp)
    lengths = np.array([part.start + 1 for _, part in members])
    length, blocks = int(lengths.max()), max(len(part.table) for _, part in members)
    tables = np.zeros((len(members), blocks), dtype=np.intp)
    for index, (_, part) in enumerate(members):
        tables[index, : len(part.table)] = part.table
    mask = None
    if int(lengths.min()) != length:
        beyond = np.arange(length)[None, :] >= lengths[:, None]
        mask = np.where(beyond, np.float32(-np.inf), np.float32(0.0))[:, None, None, None]
    return _Group(rows, tables, length, 1, mask)
