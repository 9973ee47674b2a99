"""The JSON files of a model folder, which anybody may have written."""

from pathlib import Path
from typing import TypeVar

import msgspec

from headgate.engine.errors import ModelFolderError

_T = TypeVar("_T")


def read_json(path: Path, kind: type[_T]) -> _T:
    """Raises `ModelFolderError` where the file is not there, is no JSON, or has other fields than `kind` wants."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ModelFolderError(f"{path}: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise ModelFolderError(f"{path}: {error}; correct it, or fetch the model's own file again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFolderError(f"{path}: no JSON: {error}; fetch the file again") from error
