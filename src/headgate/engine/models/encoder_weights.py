"""An encoder's weights, laid out to be multiplied with.

Matrices are contiguous as [in, out]; queries, keys and values are one matrix, with 1/sqrt(head size) folded into the
queries. The tables of positions and of the first segment are one table, since most texts have one segment.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.encoder_spec import EncoderSpec
from headgate.engine.models.safetensors import TensorFile

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


class _Tensors:
    """The tensors of a folder, their names without the body's prefix."""

    def __init__(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        if not path.exists():
            raise ModelFolderError(
                f"{path}: is missing; encoders are read from this one file, pickles and shards never"
            )
        self._file = TensorFile(path)
        self._names = set(self._file)
        probe = "embeddings.word_embeddings.weight"
        self._prefix = next((prefix for prefix in _PREFIXES if prefix + probe in self._names), "")

    def read(self, name: str, *shape: int, head: bool = False) -> Matrix:
        """A tensor of the body, or of what stands on it."""
        full = name if head else self._prefix + name
        if full not in self._names:
            raise ModelFolderError(f"{self._file.path}: the weights have no tensor {full!r}")
        found = self._file.shape(full)
        if found != shape:
            raise ModelFolderError(f"{self._file.path}: tensor {full!r} has shape {found}, config.json says {shape}")
        values = self._file.read(full)
        if not np.isfinite(values).all():
            raise ModelFolderError(f"{self._file.path}: tensor {full!r} holds values that are not finite")
        return values

    def affine(self, name: str, rows: int, columns: int, *, head: bool = False) -> Affine:
        """[out, in] as the file has it, to [in, out]."""
        matrix = self.read(f"{name}.weight", rows, columns, head=head)
        return np.ascontiguousarray(matrix.T), self.read(f"{name}.bias", rows, head=head)

    def norm(self, name: str, size: int) -> Affine:
        return self.read(f"{name}.weight", size), self.read(f"{name}.bias", size)


def read_encoder_weights(folder: Path, spec: EncoderSpec) -> EncoderWeights:
    """Raises `ModelFolderError` for anything missing, misshapen or damaged."""
    tensors = _Tensors(folder)
    hidden, first = spec.hidden, spec.first_position
    positions = tensors.read("embeddings.position_embeddings.weight", spec.positions, hidden)
    segments = tensors.read("embeddings.token_type_embeddings.weight", spec.types, hidden)
    return EncoderWeights(
        tokens=tensors.read("embeddings.word_embeddings.weight", spec.vocabulary, hidden),
        places=positions[first : first + spec.max_length] + segments[0],
        second_segment=segments[1] - segments[0] if spec.types > 1 else None,
        norm=tensors.norm("embeddings.LayerNorm", hidden),
        layers=tuple(_layer(tensors, spec, f"encoder.layer.{index}.") for index in range(spec.layers)),
        head=_head(tensors, spec) if spec.ranks else None,
    )


def _layer(tensors: _Tensors, spec: EncoderSpec, prefix: str) -> EncoderLayer:
    hidden = spec.hidden
    scale = np.float32(spec.head_size**-0.5)
    parts = [tensors.affine(f"{prefix}attention.self.{name}", hidden, hidden) for name in ("query", "key", "value")]
    parts[0] = parts[0][0] * scale, parts[0][1] * scale
    return EncoderLayer(
        qkv=(
            np.ascontiguousarray(np.concatenate([matrix for matrix, _ in parts], axis=1)),
            np.concatenate([bias for _, bias in parts]),
        ),
        attention_out=tensors.affine(f"{prefix}attention.output.dense", hidden, hidden),
        attention_norm=tensors.norm(f"{prefix}attention.output.LayerNorm", hidden),
        up=tensors.affine(f"{prefix}intermediate.dense", spec.intermediate, hidden),
        down=tensors.affine(f"{prefix}output.dense", hidden, spec.intermediate),
        norm=tensors.norm(f"{prefix}output.LayerNorm", hidden),
    )


def _head(tensors: _Tensors, spec: EncoderSpec) -> tuple[Affine, Affine]:
    """BERT's pooler and its classifier, or RoBERTa's classifier of two layers: the same thing."""
    if spec.bert:
        return tensors.affine("pooler.dense", spec.hidden, spec.hidden), tensors.affine(
            "classifier", 1, spec.hidden, head=True
        )
    return tensors.affine("classifier.dense", spec.hidden, spec.hidden, head=True), tensors.affine(
        "classifier.out_proj", 1, spec.hidden, head=True
    )
