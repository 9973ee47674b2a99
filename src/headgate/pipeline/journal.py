"""The ledger's first half: an append-only local log of receipts, written before an answer's last byte leaves.

One JSON line per receipt, one `write` call per line: after kill -9 the page cache still holds every line whole. Power
loss is bounded by `sync`, which the shipper calls with each batch.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from headgate.core.errors import Overloaded
from headgate.core.usage import Receipt

SEGMENT_BYTES = 64 * 1024 * 1024
LINE_BYTES_MAX = 1024 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class Journal:
    """Appends receipts to numbered segments in `folder`; reads them back for the shipper.

    A torn last line (a disk that filled mid-write) is closed with a newline on opening and skipped by readers.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._encode = msgspec.json.Encoder().encode
        self.on_append: Callable[[], None] = lambda: None
        """Called after each append: the shipper's wake-up."""
        self.broken: str | None = None
        """Why the last append failed; None while the journal works."""
        existing = self.segments()
        self._number = existing[-1] if existing else 1
        self._fd, self._size = self._open(self._number)

    def append(self, receipt: Receipt) -> None:
        """Raises `Overloaded` where the line could not be written whole: the caller must not report success."""
        line = self._encode(receipt) + b"\n"
        try:
            if self._size + len(line) > self._segment_bytes and self._size > 0:
                self._rotate()
            written = os.write(self._fd, line)
            if written != len(line):
                os.write(self._fd, b"\n")
                raise OSError(28, "the disk is full")
        except OSError as error:
            self.broken = error.strerror or str(error)
            raise Overloaded(
                f"The usage ledger cannot be written ({self.broken}); no paid work is done until it can.",
                code="ledger_unavailable",
                retry_after=5.0,
            ) from error
        self.broken = None
        self._size += len(line)
        self.on_append()

    def probe(self) -> None:
        """Tries whether a broken journal can be written again; an empty line means nothing to readers."""
        try:
            if os.write(self._fd, b"\n") == 1:
                self.broken = None
                self._size += 1
        except OSError as error:
            self.broken = error.strerror or str(error)

    def segments(self) -> list[int]:
        return sorted(int(path.stem) for path in self._folder.glob("*.jsonl") if path.stem.isdigit())

    @property
    def current(self) -> int:
        return self._number

    def size(self, segment: int) -> int:
        return self._path(segment).stat().st_size

    def read(self, segment: int, position: int, limit_bytes: int) -> tuple[list[bytes], int]:
        """Whole lines of a segment from a byte position on, and the position after them."""
        with self._path(segment).open("rb") as file:
            file.seek(position)
            data = file.read(max(limit_bytes, LINE_BYTES_MAX))
        end = data.rfind(b"\n") + 1
        return data[:end].splitlines(), position + end

    def sync(self) -> None:
        os.fsync(self._fd)

    def remove(self, segment: int) -> None:
        """Removes a segment whose receipts are all in the ledger; never the one being written."""
        if segment != self._number:
            self._path(segment).unlink(missing_ok=True)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.jsonl"

    def _rotate(self) -> None:
        fd, size = self._open(self._number + 1)
        os.close(self._fd)
        self._fd, self._size, self._number = fd, size, self._number + 1

    def _open(self, number: int) -> tuple[int, int]:
        path = self._path(number)
        fd = os.open(path, _FLAGS, 0o600)
        size = os.fstat(fd).st_size
        if size and not _ends_with_newline(path):
            size += os.write(fd, b"\n")
        return fd, size


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def decode(lines: list[bytes]) -> Iterator[Receipt | None]:
    """The receipts of journal lines; None for a torn line."""
    decoder = msgspec.json.Decoder(Receipt)
    for line in filter(None, lines):
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:
            yield None
