"""An encoder's weights, laid out to be multiplied with.

Matrices are contiguous as [in, out]; queries, keys and values are one matrix, with 1/sqrt(head size) folded into the
queries. The tables of positions and of the first segment are one table, since most texts have one segment.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.encoder_spec import EncoderSpec
from headgate.engine.models.tensors import Tensors

Matrix = npt.NDArray[np.float32]
Affine = tuple[Matrix, Matrix]
"""A matrix and a bias, or the scale and shift of a norm."""
_PREFIXES = ("", "bert.", "roberta.")


class EncoderLayer(Struct, frozen=True):
    qkv: Affine
    attention_out: Affine
    attention_norm: Affine
    up: Affine
    down: Affine
    norm: Affine


class EncoderWeights(Struct, frozen=True):
    tokens: Matrix
    """[vocabulary, hidden]"""
    places: Matrix
    """[length, hidden]: position plus first segment, from the first position that is used."""
    second_segment: Matrix | None
    """[hidden]: what a token of the second segment has more."""
    norm: Affine
    layers: tuple[EncoderLayer, ...]
    head: tuple[Affine, Affine] | None
    """Of a cross-encoder: a dense layer with tanh on the first token, then the score."""


class _Reader:
    """Reads what `_expected` lists; the body's names are given without their prefix."""

    def __init__(self, folder: Path, tensors: Tensors, prefix: str) -> None:
        self._folder = folder
        self._tensors = tensors
        self._prefix = prefix

    def read(self, name: str, *, head: bool = False) -> Matrix:
        full = name if head else self._prefix + name
        values = self._tensors.read(full)
        if not np.isfinite(values).all():
            raise ModelFolderError(
                f"{self._folder}: tensor {full!r} holds values that are not finite; fetch the weights again"
            )
        return values

    def affine(self, name: str, *, head: bool = False) -> Affine:
        """[out, in] as the file has it, to [in, out]."""
        return np.ascontiguousarray(self.read(f"{name}.weight", head=head).T), self.read(f"{name}.bias", head=head)

    def norm(self, name: str) -> Affine:
        return self.read(f"{name}.weight"), self.read(f"{name}.bias")


def read_encoder_weights(
    folder: Path, spec: EncoderSpec, progress: Callable[[int, int], None] | None = None
) -> EncoderWeights:
    """`progress` is told the bytes read and their total. Raises `ModelFolderError` for what is missing or damaged."""
    tensors = Tensors(folder, progress)
    try:
        prefix = _prefix(tensors)
        tensors.check(_expected(spec, prefix))
        return _weights(_Reader(folder, tensors, prefix), spec)
    finally:
        tensors.close()


def _prefix(tensors: Tensors) -> str:
    """Before the body's names, where a head stands on it."""
    for prefix in _PREFIXES:
        try:
            tensors.shape(f"{prefix}embeddings.word_embeddings.weight")
        except KeyError:
            continue
        return prefix
    return ""


def _expected(spec: EncoderSpec, prefix: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes. Bounded: no model has more layers than tensors, and the first missing one ends the check."""
    hidden, inner = spec.hidden, spec.intermediate
    found: dict[str, tuple[int, ...]] = {}

    def dense(name: str, rows: int, columns: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (rows, columns), (rows,)

    def norm(name: str) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (hidden,)

    for table, rows in (("word", spec.vocabulary), ("position", spec.positions), ("token_type", spec.types)):
        found[f"{prefix}embeddings.{table}_embeddings.weight"] = (rows, hidden)
    norm(f"{prefix}embeddings.LayerNorm")
    for index in range(spec.layers):
        layer = f"{prefix}encoder.layer.{index}."
        for name in ("query", "key", "value"):
            dense(f"{layer}attention.self.{name}", hidden, hidden)
        dense(f"{layer}attention.output.dense", hidden, hidden)
        norm(f"{layer}attention.output.LayerNorm")
        dense(f"{layer}intermediate.dense", inner, hidden)
        dense(f"{layer}output.dense", hidden, inner)
        norm(f"{layer}output.LayerNorm")
    if spec.ranks:
        first, last = _head_names(spec, prefix)
        dense(first, hidden, hidden)
        dense(last, 1, hidden)
    return found


def _head_names(spec: EncoderSpec, prefix: str) -> tuple[str, str]:
    """BERT's pooler and its classifier, or RoBERTa's classifier of two layers: the same thing."""
    return (f"{prefix}pooler.dense", "classifier") if spec.bert else ("classifier.dense", "classifier.out_proj")


def _weights(reader: _Reader, spec: EncoderSpec) -> EncoderWeights:
    first = spec.first_position
    positions = reader.read("embeddings.position_embeddings.weight")
    segments = reader.read("embeddings.token_type_embeddings.weight")
    head = None
    if spec.ranks:
        dense, score = _head_names(spec, "")
        head = reader.affine(dense, head=not spec.bert), reader.affine(score, head=True)
    return EncoderWeights(
        tokens=reader.read("embeddings.word_embeddings.weight"),
        places=positions[first : first + spec.max_length] + segments[0],
        second_segment=segments[1] - segments[0] if spec.types > 1 else None,
        norm=reader.norm("embeddings.LayerNorm"),
        layers=tuple(_layer(reader, spec, f"encoder.layer.{index}.") for index in range(spec.layers)),
        head=head,
    )


def _layer(reader: _Reader, spec: EncoderSpec, prefix: str) -> EncoderLayer:
    scale = np.float32(spec.head_size**-0.5)
    parts = [reader.affine(f"{prefix}attention.self.{name}") for name in ("query", "key", "value")]
    parts[0] = parts[0][0] * scale, parts[0][1] * scale
    return EncoderLayer(
        qkv=(
            np.ascontiguousarray(np.concatenate([matrix for matrix, _ in parts], axis=1)),
            np.concatenate([bias for _, bias in parts]),
        ),
        attention_out=reader.affine(f"{prefix}attention.output.dense"),
        attention_norm=reader.norm(f"{prefix}attention.output.LayerNorm"),
        up=reader.affine(f"{prefix}intermediate.dense"),
        down=reader.affine(f"{prefix}output.dense"),
        norm=reader.norm(f"{prefix}output.LayerNorm"),
    )
