"""Notices that an encoder no longer gives the numbers it gave. Nothing else would: wrong vectors look like right ones.

A canonical text goes through tokenizer, model and pooling now and then. Against the first answer of this process it
shows damage; against the one kept in a file, that the model behind a name is another than before a restart. Vectors
that were stored meanwhile cannot be compared with new ones then, and searches over both find nonsense.
"""

import math
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

CANONICAL = "Das Pferd frisst keinen Gurkensalat; the quick brown fox (aged 7½) jumps over 13 lazy dogs."
"""Two languages, digits, case, punctuation and a fraction: what tokenizers differ in."""
TOLERANCE = 0.01
"""Of the distance, relative to the length: other processors and libraries stay far below, other models far above. For
vectors of length one this is a cosine of 0.99995."""


class _Record(Struct):
    vector: str
    text: str = ""


class Drift:
    """`record`: the file of one model's name, or None. `told`: called with the distance if the model is another;
    `unkept`: where the file cannot be written, so that the next start will have nothing to compare with.
    """

    def __init__(
        self,
        record: Path | None = None,
        told: Callable[[float], None] = lambda _: None,
        unkept: Callable[[OSError], None] = lambda _: None,
    ) -> None:
        self.record = record
        self.told = told
        self.unkept = unkept
        self._first: array[float] | None = None
        self.distance = 0.0
        """From what is in the file, relative to its length; 0 before anything was seen."""

    def seen(self, data: bytes) -> bool:
        """Takes the canonical text's numbers, little-endian float32. False: they differ from this process's first."""
        now = array("f", data)
        if self._first is None:
            self._first = now
            self._compare(now)
        return distance(now, self._first) <= TOLERANCE

    def _compare(self, now: "array[float]") -> None:
        """The file is left as it is where the model differs: the alarm stands until somebody has taken note."""
        if self.record is None:
            return
        kept = _read(self.record)
        if kept is None:
            try:
                _write(self.record, now)
            except OSError as error:
                self.unkept(error)
            return
        self.distance = distance(now, kept)
        if self.distance > TOLERANCE:
            self.told(self.distance)


def distance(one: "array[float]", other: "array[float]") -> float:
    """Euclidean, relative to the length of `other`; infinite where they do not have as many numbers."""
    if len(one) != len(other):
        return math.inf
    found = math.dist(one, other) / (math.hypot(*other) or 1.0)
    return found if math.isfinite(found) else math.inf


def _write(path: Path, numbers: "array[float]") -> None:
    """All of it or nothing: half a record would be taken for none at the next start, and the alarm would be lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name("." + path.name)
    draft.write_bytes(msgspec.json.encode(_Record(b64encode(numbers.tobytes()).decode(), CANONICAL)))
    draft.replace(path)


def _read(path: Path) -> "array[float] | None":
    """None where there is no record that can be read: then a new one is written."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=_Record)
        return array("f", b64decode(record.vector, validate=True)) if record.text == CANONICAL else None
    except (OSError, ValueError):  # msgspec's errors are of the latter kind
        return None
