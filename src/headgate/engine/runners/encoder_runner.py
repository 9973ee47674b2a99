"""The encoder in NumPy: BERT (Devlin et al., arXiv 1810.04805) and its kin, in float32 on the CPU.

All texts of a batch stand one after the other, without padding: norms, matrices and activations see one tall matrix.
Only attention looks at single texts. They come sorted by length, so runs of like length attend side by side, padded to
the longest of their run.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from headgate.engine.encoder_wire import Text
from headgate.engine.models.encoder_spec import EncoderSpec
from headgate.engine.models.encoder_weights import Affine, EncoderLayer, EncoderWeights, Matrix

MASKED = np.float32(-1e9)
RUN_STRETCH = 1.25
RUN_SPARE = 4
"""A run ends where its padded length would be over `RUN_STRETCH` times its shortest text's, and `RUN_SPARE` more."""
BLOCK = 16_384
"""Values that the activation works on at a time: they stay in the processor's cache from one operation to the next."""

Indices = npt.NDArray[np.intp]


class _Run:
    """Texts that attend side by side: `rows` [texts, longest] says where their tokens stand in the tall matrix."""

    def __init__(self, lengths: Sequence[int], start: int) -> None:
        self.texts, self.longest = len(lengths), lengths[-1]
        self.start, self.stop = start, start + sum(lengths)
        self.even = lengths[0] == self.longest
        if not self.even:
            ends = np.cumsum(lengths)
            inside = np.arange(self.longest) < np.asarray(lengths)[:, None]
            self.inside = inside
            self.rows: Indices = np.where(inside, (ends - lengths)[:, None] + np.arange(self.longest), 0)
            self.mask = np.where(inside, np.float32(0.0), MASKED)[:, None, None, :]


class EncoderRunner:
    """Vectors of texts, [texts, hidden], or scores, [texts, 1], as the model gives them. Not for several threads."""

    def __init__(self, spec: EncoderSpec, weights: EncoderWeights) -> None:
        self._spec = spec
        self._weights = weights

    @property
    def size(self) -> int:
        """Numbers per text."""
        return 1 if self._spec.ranks else self._spec.hidden

    def encode(self, texts: Sequence[Text]) -> Matrix:
        """In the order given. Texts must not be empty, longer than the model's maximum, or hold unknown ids."""
        order = sorted(range(len(texts)), key=lambda place: len(texts[place].tokens))
        ordered = [texts[place] for place in order]
        lengths = [len(text.tokens) for text in ordered]
        runs = list(_runs(lengths))
        x = self._embedded(ordered, lengths)
        for layer in self._weights.layers:
            x = self._layer(x, layer, runs)
        out = np.empty((len(texts), self.size), np.float32)
        out[order] = self._scores(x, lengths) if self._spec.ranks else self._pooled(x, lengths)
        return out

    def _embedded(self, texts: Sequence[Text], lengths: Sequence[int]) -> Matrix:
        weights = self._weights
        tokens = np.fromiter((token for text in texts for token in text.tokens), np.intp, sum(lengths))
        x = weights.tokens[tokens]
        x += np.concatenate([weights.places[:length] for length in lengths])
        if weights.second_segment is not None:
            start = 0
            for text, length in zip(texts, lengths, strict=True):
                if text.second is not None:
                    x[start + text.second : start + length] += weights.second_segment
                start += length
        return _normed(x, weights.norm, self._spec.norm_epsilon)

    def _layer(self, x: Matrix, layer: EncoderLayer, runs: Sequence[_Run]) -> Matrix:
        attended = self._attention(_affine(x, layer.qkv), runs)
        x += _affine(attended, layer.attention_out)
        x = _normed(x, layer.attention_norm, self._spec.norm_epsilon)
        inner = _affine(x, layer.up)
        if self._spec.gelu:
            gelu(inner)
        else:
            np.maximum(inner, 0.0, out=inner)
        x += _affine(inner, layer.down)
        return _normed(x, layer.norm, self._spec.norm_epsilon)

    def _attention(self, qkv: Matrix, runs: Sequence[_Run]) -> Matrix:
        heads, size = self._spec.heads, self._spec.head_size
        out = np.empty((len(qkv), self._spec.hidden), np.float32)
        for run in runs:
            part = qkv[run.start : run.stop]
            if not run.even:
                part = part[run.rows]
            part = part.reshape(run.texts, run.longest, 3, heads, size).transpose(2, 0, 3, 1, 4)
            scores = part[0] @ part[1].swapaxes(-1, -2)
            if not run.even:
                scores += run.mask
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            total = scores.sum(axis=-1, keepdims=True)
            mixed = scores @ part[2]
            mixed /= total
            tall = mixed.swapaxes(1, 2).reshape(run.texts, run.longest, heads * size)
            out[run.start : run.stop] = tall[run.inside] if not run.even else tall.reshape(-1, heads * size)
        return out

    def _pooled(self, x: Matrix, lengths: Sequence[int]) -> Matrix:
        starts = np.cumsum([0, *lengths[:-1]])
        match self._spec.pooling:
            case "cls":
                vectors = x[starts]
            case "max":
                vectors = np.maximum.reduceat(x, starts)
            case "mean":
                vectors = np.add.reduceat(x, starts) / np.asarray(lengths, np.float32)[:, None]
        return unit(vectors) if self._spec.normalize else vectors

    def _scores(self, x: Matrix, lengths: Sequence[int]) -> Matrix:
        head = self._weights.head
        assert head is not None  # `read_encoder_weights` gives one to every model that ranks
        first = x[np.cumsum([0, *lengths[:-1]])]
        logits = _affine(np.tanh(_affine(first, head[0])), head[1])
        return sigmoid(logits) if self._spec.activation == "sigmoid" else logits


def _runs(lengths: Sequence[int]) -> Iterator[_Run]:
    first = start = 0
    for place in range(1, len(lengths) + 1):
        if place == len(lengths) or lengths[place] > lengths[first] * RUN_STRETCH + RUN_SPARE:
            run = _Run(lengths[first:place], start)
            yield run
            first, start = place, run.stop


def _affine(x: Matrix, by: Affine) -> Matrix:
    out: Matrix = x @ by[0]
    out += by[1]
    return out


def _normed(x: Matrix, by: Affine, epsilon: float) -> Matrix:
    """Layer norm (Ba et al., arXiv 1607.06450), in place."""
    x -= x.mean(axis=1, keepdims=True)
    variance = np.einsum("ij,ij->i", x, x) / np.float32(x.shape[1])
    x *= (1.0 / np.sqrt(variance + np.float32(epsilon)))[:, None]
    x *= by[0]
    x += by[1]
    return x


_A = np.asarray([0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429], np.float32) / np.float32(2.0)
_P = np.float32(0.3275911 / 2**0.5)


def gelu(x: Matrix) -> Matrix:
    """x times the normal distribution's Phi(x), in place: exact but for 2e-7 times |x|.

    NumPy has no erf. With a = |x|, Phi(-a) is a polynomial in 1 / (1 + p a) times exp(-a^2 / 2) (Abramowitz and Stegun,
    7.1.26), and the result is max(x, 0) - a Phi(-a).
    """
    flat = x.reshape(-1)
    buffers = np.empty((3, min(BLOCK, len(flat))), np.float32)
    for start in range(0, len(flat), BLOCK):
        part = flat[start : start + BLOCK]
        a, t, sum_ = buffers[:, : len(part)]
        np.abs(part, out=a)
        np.multiply(a, _P, out=t)
        t += np.float32(1.0)
        np.reciprocal(t, out=t)
        np.multiply(t, _A[4], out=sum_)
        for coefficient in _A[3::-1]:
            sum_ += coefficient
            sum_ *= t
        np.multiply(a, a, out=t)
        t *= np.float32(-0.5)
        np.exp(t, out=t)
        sum_ *= t
        sum_ *= a
        np.maximum(part, np.float32(0.0), out=part)
        part -= sum_
    return x


def unit(vectors: Matrix) -> Matrix:
    """Each of length one; one of length zero stays as it is."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    found: Matrix = vectors / np.maximum(lengths, np.float32(1e-12))
    return found


def sigmoid(x: Matrix) -> Matrix:
    """Without overflow on either side."""
    small = np.exp(-np.abs(x))
    found: Matrix = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return found
