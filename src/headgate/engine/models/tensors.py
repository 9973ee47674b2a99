"""All tensors of a model folder by name, whether in one safetensors file or in shards with an index."""

from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct

from headgate.engine.errors import ModelFolderError
from headgate.engine.models.json_file import read_json
from headgate.engine.models.matrix import Floats
from headgate.engine.models.safetensors import TensorFile

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class _Index(Struct):
    weight_map: dict[str, str]


class Tensors:
    """Open until `close`. `progress` is told the bytes read so far and the bytes of all that `check` was asked for."""

    def __init__(self, folder: Path, progress: Callable[[int, int], None] | None = None) -> None:
        self._folder = folder
        self._progress = progress
        self._done = self._total = 0
        self._opened = [TensorFile(path) for path in _paths(folder)]
        self._files = {name: file for file in self._opened for name in file}

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Raises `ModelFolderError` unless every tensor is there, in its shape and of a type that can be read."""
        for name, shape in expected.items():
            file = self._files.get(name)
            if file is None:
                raise ModelFolderError(
                    f"{self._folder}: the weights have no tensor {name!r}, which config.json calls for; "
                    "fetch the model again, or correct config.json"
                )
            if file.shape(name) != shape:
                raise ModelFolderError(
                    f"{file.path}: tensor {name!r} has shape {file.shape(name)}, config.json says {shape}"
                )
            file.check_type(name)
        self._total = sum(self._files[name].nbytes(name) for name in expected)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._files[name].shape(name)

    def read(self, name: str, begin: int = 0, end: int | None = None) -> Floats:
        """Rows `begin` to `end` (all, without) as float32, a copy."""
        file = self._files[name]
        found = file.read(name, begin, end)
        if self._progress is not None:
            self._done += file.nbytes(name) * len(found) // max(1, file.shape(name)[0])
            self._progress(self._done, self._total)
        return found

    def close(self) -> None:
        for file in self._opened:
            file.close()


def _paths(folder: Path) -> list[Path]:
    index = folder / INDEX
    if not index.exists():
        return [folder / SINGLE]
    names = set(read_json(index, _Index).weight_map.values())
    if any(Path(name).name != name for name in names):
        raise ModelFolderError(f"{index}: names a file outside the folder")
    return [folder / name for name in sorted(names)]
