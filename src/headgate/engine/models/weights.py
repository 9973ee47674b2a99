"""A model's weights in the layout that multiplies fastest on a CPU.

Matrices are stored contiguous as [in, out], because for the few rows of a decode `x @ W` is several times faster than
`x @ W.T`. Queries, keys and values are one matrix, gate and up another. What can be computed once is folded in at load:

- each RMS norm's weights into the matrix that follows it,
- 1/sqrt(head size) into the queries,
- the rotary pairing: columns of queries and keys are reordered so that a pair lies side by side and a rotation is one
  product of complex numbers (Hugging Face keeps the halves of a head apart). Dot products do not notice.
"""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.safetensors import TensorFile
from headgate.engine.models.spec import ModelSpec

Matrix = npt.NDArray[np.float32]


class LayerWeights(Struct, frozen=True):
    qkv: Matrix
    qkv_bias: Matrix | None
    attention_out: Matrix
    gate_up: Matrix
    down: Matrix


class Weights(Struct, frozen=True):
    embeddings: Matrix
    """[vocabulary, hidden]"""
    layers: tuple[LayerWeights, ...]
    head: Matrix
    """[hidden, vocabulary]"""


class _Index(Struct):
    weight_map: dict[str, str]


class _Tensors:
    """All tensors of a folder by name, whether in one file or in shards with an index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        if index.exists():
            try:
                names = set(msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values())
            except (msgspec.DecodeError, RecursionError) as error:
                raise ModelFolderError(f"{index}: {error}") from error
            if any(Path(name).name != name for name in names):
                raise ModelFolderError(f"{index}: names a file outside the folder")
            paths = [folder / name for name in sorted(names)]
        else:
            paths = [folder / "model.safetensors"]
        self._files = {name: file for file in map(TensorFile, paths) for name in file}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, *shape: int) -> Matrix:
        file = self._files.get(name)
        if file is None:
            raise ModelFolderError(f"{self._folder}: the weights have no tensor {name!r}")
        if file.shape(name) != shape:
            raise ModelFolderError(
                f"{file.path}: tensor {name!r} has shape {file.shape(name)}, config.json says {shape}"
            )
        return file.read(name)


def read_weights(folder: Path, spec: ModelSpec) -> Weights:
    """Raises `ModelFolderError` for anything missing, misshapen or damaged."""
    tensors = _Tensors(folder)
    embeddings = tensors.read("model.embed_tokens.weight", spec.vocabulary, spec.hidden)
    layers = tuple(_layer(tensors, spec, f"model.layers.{index}.") for index in range(spec.layers))
    head = embeddings
    if not spec.tied:
        head = tensors.read("lm_head.weight", spec.vocabulary, spec.hidden)
    norm = tensors.read("model.norm.weight", spec.hidden)
    return Weights(embeddings, layers, _stored(head, norm))


def _layer(tensors: _Tensors, spec: ModelSpec, prefix: str) -> LayerWeights:
    hidden, kv_width, q_width = spec.hidden, spec.kv_width, spec.heads * spec.head_size
    before_attention = tensors.read(prefix + "input_layernorm.weight", hidden)
    before_mlp = tensors.read(prefix + "post_attention_layernorm.weight", hidden)
    attention = prefix + "self_attn."
    scale = np.float32(spec.head_size**-0.5)

    def projected(kind: str, *width: int) -> tuple[Matrix, Matrix, Matrix]:
        q = tensors.read(f"{attention}q_proj.{kind}", q_width, *width) * scale
        k = tensors.read(f"{attention}k_proj.{kind}", kv_width, *width)
        v = tensors.read(f"{attention}v_proj.{kind}", kv_width, *width)
        return _paired(q, spec.head_size), _paired(k, spec.head_size), v

    bias = np.concatenate(projected("bias")) if spec.attention_bias else None
    mlp = prefix + "mlp."
    gate = tensors.read(mlp + "gate_proj.weight", spec.intermediate, hidden)
    up = tensors.read(mlp + "up_proj.weight", spec.intermediate, hidden)
    attention_out = tensors.read(attention + "o_proj.weight", hidden, q_width)
    down = tensors.read(mlp + "down_proj.weight", hidden, spec.intermediate)
    return LayerWeights(
        qkv=_stored(np.concatenate(projected("weight", hidden)), before_attention),
        qkv_bias=bias,
        attention_out=_stored(attention_out),
        gate_up=_stored(np.concatenate((gate, up)), before_mlp),
        down=_stored(down),
    )


def _paired(rows: Matrix, head_size: int) -> Matrix:
    """Reorders each head's rows from (first halves, second halves) to pairs side by side."""
    heads = rows.reshape(-1, 2, head_size // 2, *rows.shape[1:])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(rows.shape)


def _stored(matrix: Matrix, norm: Matrix | None = None) -> Matrix:
    """[out, in] as the file has it, to [in, out], with the norm before it folded in."""
    return np.ascontiguousarray(matrix.T if norm is None else (matrix * norm).T)
