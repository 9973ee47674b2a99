"""How much memory a model takes when awake, told from its folder alone, and who gives way where it does not suffice."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headgate.core.errors import Overloaded
from headgate.engine.errors import ModelFolderError
from headgate.engine.models.spec import read_spec
from headgate.engine.settings import EngineSettings

PROCESS_MIB = 80
"""Python, NumPy and what one step needs, for small models; measured."""
MIB = 2**20
_FLOAT_BYTES = 4
_MOST_ITEMS = 2**50
"""More than any file has, whatever its header says."""
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 64 * MIB
MEMORY_FULL = "engine_memory_full"
RESTED_S = 1.0
"""One that was used more recently than this is not put to sleep for another: its next call may be on the way."""


class _Tensor(Struct):
    """An entry of a header; the one of metadata has no shape."""

    shape: list[Annotated[int, Meta(ge=0)]] | None = None


def footprint_mib(folder: Path, settings: EngineSettings) -> int:
    """MiB of an engine process with this model: its weights as 32-bit floats, its KV cache when full, the same of its
    draft model, and itself.

    Raises `ModelFolderError` where the folder has no weights that can be sized.
    """
    folders = [folder]
    if settings.speculation.method == "draft" and settings.speculation.model is not None:
        folders.append(Path(settings.speculation.model).expanduser())
    return PROCESS_MIB + -(-sum(_model_bytes(one, settings) for one in folders) // MIB)


def _model_bytes(folder: Path, settings: EngineSettings) -> int:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelFolderError(f"{folder}: has no *.safetensors file")
    return sum(map(_weights_bytes, files)) + _kv_bytes(folder, settings)


def _weights_bytes(file: Path) -> int:
    if not file.is_file():
        raise ModelFolderError(f"{file}: is no regular file")  # one could wait for a pipe for ever
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
            if length > _MAX_HEADER_BYTES:
                raise ModelFolderError(f"{file}: its header claims {length} bytes")
            header = msgspec.json.decode(opened.read(length), type=dict[str, _Tensor])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFolderError(f"{file}: its header cannot be read: {error}") from error
    items = sum(math.prod(tensor.shape) for tensor in header.values() if tensor.shape is not None)
    return min(items, _MOST_ITEMS) * _FLOAT_BYTES


def _kv_bytes(folder: Path, settings: EngineSettings) -> int:
    """Nothing for models that keep none; those that cannot be served at all are told so when they are loaded."""
    try:
        spec = read_spec(folder)
    except ModelFolderError:
        return 0
    useful = settings.max_sequences * spec.context_length * spec.kv_bytes_per_token(_FLOAT_BYTES)
    return min(settings.kv_cache_mib * MIB, useful)


class Occupant(Struct, frozen=True):
    """A model awake."""

    name: str
    mib: int
    idle_s: float
    """0: it works."""
    stays: bool
    """It may not be put to sleep."""


def make_room(name: str, need: int, cap: int, awake: Sequence[Occupant]) -> list[str]:
    """Who must be put to sleep so that `name` fits: the least recently used first, and no more than necessary.

    Raises `Overloaded` with the numbers where that does not suffice. A `cap` of 0 is none.
    """
    free = cap - sum(one.mib for one in awake)
    if cap == 0 or need <= free:
        return []
    leaving: list[str] = []
    for one in sorted(awake, key=lambda one: -one.idle_s):
        if not one.stays and one.idle_s >= RESTED_S:
            leaving.append(one.name)
            free += one.mib
            if need <= free:
                return leaving
    staying = ", ".join(f"{one.name} {one.mib}" for one in awake if one.name not in leaving) or "none"
    raise Overloaded(
        f"'{name}' needs {need} MiB and {max(free, 0)} of {cap} can be had: in use by {staying}. Raise "
        "engine.memory_mib, or unload a model.",
        code=MEMORY_FULL,
        retry_after=RESTED_S,
    )
