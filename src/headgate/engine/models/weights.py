"""A model's weights in the layout that multiplies fastest on a CPU (`matrix.py`).

Queries, keys and values are one matrix, gate and up another. What can be computed once is folded in at load:

- each RMS norm's weights into the matrix that follows it (of the last one only where the output matrix is no embedding
  matrix too),
- 1/sqrt(head size) into the queries, or into the weights of their own norm,
- the rotary pairing: columns of queries and keys are reordered so that a pair lies side by side and a rotation is one
  product of complex numbers (Hugging Face keeps the halves of a head apart). Dot products do not notice.
- the sign of exp(-gate): gate and up are both negated, which their product does not notice.

With several threads the MLP and the output matrix are cut into shares, one for each.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.matrix import Floats, Matrix, shares
from headgate.engine.models.spec import FLOAT_BYTES, ModelSpec, read_spec
from headgate.engine.models.tensors import Tensors

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and those of all tensors, as the file has them."""

PIECE_BYTES = 8 * 2**20
"""Embeddings are converted in pieces of about this size."""


class MlpShare(Struct, frozen=True):
    """Some of the MLP's inner columns: gates, then as many ups, both negated, and the rows of `down` for them."""

    gate_up: Matrix
    gate_up_bias: Floats | None
    down: Matrix


class LayerWeights(Struct, frozen=True):
    qkv: Matrix
    qkv_bias: Floats | None
    qk_norm: Floats | None
    """[heads + kv heads, head size]: weights of the queries' and keys' own norm."""
    attention_out: Matrix
    attention_out_bias: Floats | None
    mlp: tuple[MlpShare, ...]
    down_bias: Floats | None


class Weights(Struct, frozen=True):
    """Read-only once made: runners may share them."""

    embeddings: Floats | None
    """[vocabulary, hidden]; None where the output matrix has them."""
    layers: tuple[LayerWeights, ...]
    norm: Floats | None
    """Before the output matrix, where it is not folded into it."""
    head: tuple[Matrix, ...]
    """To the vocabulary, in shares that follow each other."""

    def embedded(self, tokens: npt.NDArray[np.intp]) -> Floats:
        """[tokens, hidden], to be written to."""
        if self.embeddings is not None:
            found: Floats = self.embeddings[tokens]
            return found
        if len(self.head) == 1:
            return self.head[0].columns(tokens)
        out = np.empty((len(tokens), self.head[0].inputs), dtype=np.float32)
        begin = 0
        for share in self.head:
            here = (tokens >= begin) & (tokens < begin + share.outputs)
            out[here] = share.columns(tokens[here] - begin)
            begin += share.outputs
        return out


class Footprint(Struct, frozen=True):
    """Memory that a model takes, in bytes, beside a few MiB of working space."""

    weights: int
    kv_per_token: int

    def total(self, tokens: int) -> int:
        """With room for the keys and values of so many tokens."""
        return self.weights + tokens * self.kv_per_token


def footprint(model: Path | ModelSpec) -> Footprint:
    """From the configuration alone. Raises `ModelFolderError` for a folder that `read_spec` refuses."""
    spec = read_spec(model) if isinstance(model, Path) else model
    return Footprint(sum(map(math.prod, expected(spec).values())) * FLOAT_BYTES, spec.kv_bytes_per_token())


def expected(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every tensor that the model must have, and its shape."""
    hidden, inner = spec.hidden, spec.intermediate
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocabulary, hidden)}
    widths = {"q": spec.q_width, "k": spec.kv_width, "v": spec.kv_width}
    for index in range(spec.layers):
        prefix = f"model.layers.{index}."
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        found[prefix + "input_layernorm.weight"] = (hidden,)
        found[prefix + "post_attention_layernorm.weight"] = (hidden,)
        for name, width in widths.items():
            found[f"{attention}{name}_proj.weight"] = (width, hidden)
            if spec.attention_bias:
                found[f"{attention}{name}_proj.bias"] = (width,)
        found[attention + "o_proj.weight"] = (hidden, spec.q_width)
        if spec.out_bias:
            found[attention + "o_proj.bias"] = (hidden,)
        if spec.qk_norm:
            found[attention + "q_norm.weight"] = found[attention + "k_norm.weight"] = (spec.head_size,)
        for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
            found[f"{mlp}{name}_proj.weight"] = shape
            if spec.mlp_bias:
                found[f"{mlp}{name}_proj.bias"] = shape[:1]
    found["model.norm.weight"] = (hidden,)
    if not spec.tied:
        found["lm_head.weight"] = (spec.vocabulary, hidden)
    return found


def read_weights(folder: Path, spec: ModelSpec, progress: Progress | None = None, *, threads: int = 1) -> Weights:
    """Tensor by tensor: besides the result, a layer or a piece of the embeddings is held at a time.

    Raises `ModelFolderError` for anything missing, misshapen or damaged, before memory is asked for.
    """
    tensors = Tensors(folder, progress)
    try:
        tensors.check(expected(spec))
        layers = tuple(_layer(tensors, spec, f"model.layers.{index}.", threads) for index in range(spec.layers))
        norm = tensors.read("model.norm.weight")
        source = "model.embed_tokens.weight" if spec.tied else "lm_head.weight"
        folded = None if spec.tied else norm
        head = tuple(
            Matrix(end - begin, spec.hidden, _pieces(tensors, source, begin, end, folded))
            for begin, end in shares(spec.vocabulary, threads)
        )
        embeddings = None if spec.tied else tensors.read("model.embed_tokens.weight")
        return Weights(embeddings, layers, norm if spec.tied else None, head)
    except MemoryError as error:
        need = footprint(spec).weights // 2**20
        raise ModelFolderError(f"{folder}: its weights take {need} MiB; the machine has too little memory") from error
    finally:
        tensors.close()


def _pieces(tensors: Tensors, name: str, begin: int, end: int, norm: Floats | None) -> Iterator[Floats]:
    rows = max(1, PIECE_BYTES // (FLOAT_BYTES * tensors.shape(name)[1]))
    for at in range(begin, end, rows):
        piece = tensors.read(name, at, min(end, at + rows))
        yield piece if norm is None else piece * norm


def _layer(tensors: Tensors, spec: ModelSpec, prefix: str, threads: int) -> LayerWeights:
    attention = prefix + "self_attn."
    scale = np.float32(spec.head_size**-0.5)
    q_scale = np.float32(1.0) if spec.qk_norm else scale

    def projected(kind: str) -> Floats:
        q = tensors.read(f"{attention}q_proj.{kind}") * q_scale
        k = tensors.read(f"{attention}k_proj.{kind}")
        v = tensors.read(f"{attention}v_proj.{kind}")
        return np.concatenate((_paired(q, spec.head_size), _paired(k, spec.head_size), v))

    qkv = projected("weight")
    qkv *= tensors.read(prefix + "input_layernorm.weight")
    qk_norm = None
    if spec.qk_norm:
        q = _paired(tensors.read(attention + "q_norm.weight"), spec.head_size) * scale
        k = _paired(tensors.read(attention + "k_norm.weight"), spec.head_size)
        qk_norm = np.concatenate((np.tile(q, (spec.heads, 1)), np.tile(k, (spec.kv_heads, 1))))
    mlp = prefix + "mlp."
    return LayerWeights(
        qkv=Matrix(len(qkv), spec.hidden, [qkv]),
        qkv_bias=projected("bias") if spec.attention_bias else None,
        qk_norm=qk_norm,
        attention_out=Matrix(spec.hidden, spec.q_width, [tensors.read(attention + "o_proj.weight")]),
        attention_out_bias=tensors.read(attention + "o_proj.bias") if spec.out_bias else None,
        mlp=_mlp(tensors, spec, prefix, threads),
        down_bias=tensors.read(mlp + "down_proj.bias") if spec.mlp_bias else None,
    )


def _mlp(tensors: Tensors, spec: ModelSpec, prefix: str, threads: int) -> tuple[MlpShare, ...]:
    norm = -tensors.read(prefix + "post_attention_layernorm.weight")
    gate = tensors.read(prefix + "mlp.gate_proj.weight") * norm
    up = tensors.read(prefix + "mlp.up_proj.weight") * norm
    down = tensors.read(prefix + "mlp.down_proj.weight")
    biases = None
    if spec.mlp_bias:
        biases = (-tensors.read(prefix + "mlp.gate_proj.bias"), -tensors.read(prefix + "mlp.up_proj.bias"))
    made = []
    for begin, end in shares(spec.intermediate, threads):
        both = Matrix(2 * (end - begin), spec.hidden, [gate[begin:end], up[begin:end]])
        bias = None if biases is None else np.concatenate([part[begin:end] for part in biases])
        made.append(MlpShare(both, bias, Matrix(spec.hidden, end - begin, [down[:, begin:end]])))
    return tuple(made)


def _paired(rows: Floats, head_size: int) -> Floats:
    """Reorders each head's rows from (first halves, second halves) to pairs side by side."""
    heads = rows.reshape(-1, 2, head_size // 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)
