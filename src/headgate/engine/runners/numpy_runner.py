"""Decoders of the Llama kind in NumPy: one matrix product per linear layer for all tokens of a step."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from headgate.engine.models.matrix import Matrix
from headgate.engine.models.rope import frequencies
from headgate.engine.models.spec import ModelSpec
from headgate.engine.models.weights import LayerWeights, MlpShare, Weights
from headgate.engine.plan import Masks, SampleSpec, StepPlan, StepResult
from headgate.engine.runners.attention import Attention, Floats, Group, Ints
from headgate.engine.runners.team import Team
from headgate.engine.sampling.sampler import sample

_Turns = npt.NDArray[np.complex64]


class NumpyRunner:
    """Holds the KV cache of `blocks` blocks besides the padding one; weights may be shared with other runners.

    As many threads compute as the weights have shares. `close` ends them; nothing else needs it.
    """

    def __init__(self, spec: ModelSpec, weights: Weights, *, blocks: int, block_size: int) -> None:
        self.spec = spec
        self._weights = weights
        self._attention = Attention(spec, block_size)
        shape = (spec.layers, blocks + 1, block_size, 2 * spec.kv_width)
        self._cache: Floats = np.zeros(shape, dtype=np.float32)  # the system commits pages as they are written
        turns, self._temperature = frequencies(spec.rope, spec.head_size, spec.context_length)
        self._frequencies = np.array(turns)
        self._rotations: _Turns = np.empty((0, 1, spec.head_size // 2), dtype=np.complex64)
        shares = max(len(weights.head), *(len(layer.mlp) for layer in weights.layers))
        self._team: Team[Any, Floats] = Team(shares - 1)

    def forward(self, plan: StepPlan) -> Floats:
        """Logits of the wanted rows, [rows, vocabulary]."""
        for source, target in plan.copies:
            self._cache[:, target] = self._cache[:, source]
        slices, weights, spec = plan.slices, self._weights, self.spec
        tokens = np.array([token for part in slices for token in part.tokens], dtype=np.intp)
        slots = self._attention.slots(slices)
        groups = self._attention.groups(slices)
        rotations = self._rotated([at for part in slices for at in range(part.start, part.start + len(part.tokens))])
        x = weights.embedded(tokens)
        with np.errstate(over="ignore"):  # exp(-gate) may be infinite: the product is then the zero it should be
            for cache, layer, window in zip(self._cache, weights.layers, spec.windows, strict=True):
                x += self._attend(layer, cache, self._normed(x), rotations, slots, groups[window])
                x += self._mlp(layer, self._normed(x))
        return self._logits(x[_wanted(plan)])

    def sample(self, logits: Floats, samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult:
        return sample(logits, samples, masks)

    def close(self) -> None:
        """Ends its threads. It cannot compute afterwards."""
        self._team.close()

    def _logits(self, x: Floats) -> Floats:
        weights = self._weights
        normed = self._normed(x)
        if weights.norm is not None:
            normed *= weights.norm
        if len(weights.head) == 1 or not len(x):
            return weights.head[0](normed) if len(x) else np.empty((0, self.spec.vocabulary), dtype=np.float32)

        def part(matrix: Matrix) -> Floats:
            return matrix(normed)

        return np.concatenate(self._team.run(part, weights.head), axis=1)

    def _normed(self, x: Floats) -> Floats:
        """RMS norm without its weights, which are in the next matrix (arXiv 1910.07467)."""
        epsilon, width = self.spec.norm_epsilon, x.shape[1]
        if len(x) == 1:
            row = x[0]
            return x * np.float32(1.0 / math.sqrt(float(row.dot(row)) / width + epsilon))
        scale: Floats = np.vecdot(x, x)
        scale *= 1.0 / width
        scale += epsilon
        np.sqrt(scale, out=scale)
        normed: Floats = x / scale[:, None]
        return normed

    def _mlp(self, layer: LayerWeights, x: Floats) -> Floats:
        def part(share: MlpShare) -> Floats:
            both = share.gate_up(x)
            if share.gate_up_bias is not None:
                both += share.gate_up_bias
            middle = both.shape[1] // 2
            gate, up = both[:, :middle], both[:, middle:]  # both negated
            gated = np.exp(gate)
            gated += 1.0
            up *= gate
            np.divide(up, gated, out=gated)
            return share.down(gated)

        if len(layer.mlp) == 1:
            out = part(layer.mlp[0])
        else:
            out, *others = self._team.run(part, layer.mlp)
            for other in others:
                out += other
        if layer.down_bias is not None:
            out += layer.down_bias
        return out

    def _attend(
        self, layer: LayerWeights, cache: Floats, x: Floats, rotations: _Turns, slots: Ints, groups: list[Group]
    ) -> Floats:
        spec = self.spec
        qkv = layer.qkv(x)
        if layer.qkv_bias is not None:
            qkv += layer.qkv_bias
        rows, heads = len(qkv), spec.heads + spec.kv_heads
        if layer.qk_norm is not None:
            self._norm_heads(qkv[:, : heads * spec.head_size].reshape(rows, heads, spec.head_size), layer.qk_norm)
        pairs = qkv.view(np.complex64)[:, : heads * spec.head_size // 2].reshape(rows, heads, -1)
        pairs *= rotations
        cache.reshape(-1, 2 * spec.kv_width)[slots] = qkv[:, spec.q_width :]
        queries = qkv[:, : spec.q_width]
        if len(groups) == 1:
            mixed = self._attention.mix(queries, cache, groups[0])
        else:
            mixed = np.empty((rows, spec.q_width), dtype=np.float32)
            for group in groups:
                mixed[group.rows] = self._attention.mix(queries[group.rows], cache, group)
        out = layer.attention_out(mixed)
        if layer.attention_out_bias is not None:
            out += layer.attention_out_bias
        return out

    def _norm_heads(self, heads: Floats, weights: Floats) -> None:
        """In place: RMS norm of each head, with its weights."""
        scale: Floats = np.vecdot(heads, heads)
        scale *= 1.0 / self.spec.head_size
        scale += self.spec.norm_epsilon
        np.sqrt(scale, out=scale)
        heads /= scale[..., None]
        heads *= weights

    def _rotated(self, positions: list[int]) -> _Turns:
        """exp(i x position x frequency), times the temperature, [positions, 1, pairs]."""
        known, need = len(self._rotations), max(positions) + 1
        if need > known:
            angles = np.outer(np.arange(known, max(need, 2 * known)), self._frequencies)
            more = (self._temperature * np.exp(1j * angles)).astype(np.complex64)[:, None]
            self._rotations = np.concatenate((self._rotations, more))
        return self._rotations[positions]


def _wanted(plan: StepPlan) -> list[int]:
    """Rows whose logits are wanted."""
    end = 0
    rows: list[int] = []
    for part in plan.slices:
        end += len(part.tokens)
        rows.extend(range(end - part.wants, end))
    return rows
