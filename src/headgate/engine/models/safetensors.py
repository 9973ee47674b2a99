"""Safetensors files, mapped and checked. Nothing outside a tensor's own bytes can be read through this.

The format: eight bytes with the header's length (little-endian), a JSON header with dtype, shape and byte range of each
tensor, then the bytes. Ranges must follow each other without gap or overlap and end with the file, and each must have
exactly the size that its shape and dtype call for; everything else is refused.
"""

import contextlib
import math
import mmap
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from headgate.engine.errors import ModelFolderError

MAX_HEADER_BYTES = 64 * 2**20

_ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
_FLOATS = {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}


class _Entry(Struct, frozen=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class TensorFile:
    """One file, open for reading. Names iterate in no particular order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise ModelFolderError(f"{path}: is no regular file")  # one could wait for a pipe for ever
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                self._map: mmap.mmap | bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise ModelFolderError(f"{path}: {error.strerror}") from error
        self._data_at = 0
        self._entries = self._read_header()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name].shape

    def nbytes(self, name: str) -> int:
        begin, end = self._entries[name].data_offsets
        return end - begin

    def check_type(self, name: str) -> None:
        """Raises `ModelFolderError` if the tensor cannot be read as floats."""
        if self._entries[name].dtype not in _FLOATS:
            raise self._false(
                f"tensor {name!r} is {self._entries[name].dtype}; the engine reads {', '.join(_FLOATS)}: "
                "use a folder with such weights"
            )

    def read(self, name: str, first: int = 0, end: int | None = None) -> npt.NDArray[np.float32]:
        """Rows `first` to `end` of the tensor (all, without) as float32: a copy, whatever the file holds."""
        self.check_type(name)
        entry = self._entries[name]
        rows = entry.shape[0] if entry.shape else 1
        end = rows if end is None else end
        shape = (end - first, *entry.shape[1:]) if entry.shape else ()
        width = math.prod(entry.shape[1:])
        at = self._data_at + entry.data_offsets[0] + first * width * _ITEM_BYTES[entry.dtype]
        raw = np.frombuffer(self._map, dtype=_FLOATS[entry.dtype], count=math.prod(shape), offset=at)
        if entry.dtype == "BF16":  # the upper half of a float32
            upper = raw.astype(np.uint32)
            upper <<= np.uint32(16)
            return upper.view(np.float32).reshape(shape)
        return raw.astype(np.float32).reshape(shape)

    def close(self) -> None:
        """Gives the mapping back. Arrays that were read stay."""
        if isinstance(self._map, mmap.mmap):
            with contextlib.suppress(BufferError):  # a traceback still holds a view: the last one closes it
                self._map.close()

    def _read_header(self) -> dict[str, _Entry]:
        size = len(self._map)
        if size < 8:
            raise self._false("shorter than its header's length field")
        length = int.from_bytes(self._map[:8], "little")
        if length > min(size - 8, MAX_HEADER_BYTES):
            raise self._false(f"the header claims {length} bytes; the file has {size}: it is cut short, fetch it again")
        self._data_at = 8 + length
        try:
            raw = msgspec.json.decode(self._map[8 : self._data_at], type=dict[str, msgspec.Raw])
            raw.pop("__metadata__", None)
            entries = {name: msgspec.json.decode(value, type=_Entry) for name, value in raw.items()}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._false(f"the header is malformed: {error}") from error
        self._check_ranges(entries)
        return entries

    def _check_ranges(self, entries: dict[str, _Entry]) -> None:
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
            item = _ITEM_BYTES.get(entry.dtype)
            if item is None:
                raise self._false(f"tensor {name!r} has the unknown dtype {entry.dtype!r}")
            if len(entry.shape) > 8 or any(size < 0 for size in entry.shape):
                raise self._false(f"tensor {name!r} has the impossible shape {entry.shape}")
            needed = item
            for size in entry.shape:
                needed *= size
            if entry.data_offsets != (end, end + needed):
                raise self._false(f"tensor {name!r} claims bytes {entry.data_offsets}, expected {(end, end + needed)}")
            end += needed
        if self._data_at + end != len(self._map):
            raise self._false(f"the tensors end at byte {self._data_at + end}, the file at {len(self._map)}")

    def _false(self, problem: str) -> ModelFolderError:
        return ModelFolderError(f"{self.path}: {problem}")
