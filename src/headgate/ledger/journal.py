"""The ledger's first half: an append-only local log of receipts, written before an answer's last byte leaves.

One JSON line per receipt, one `write` call per line: after kill -9 the page cache still holds every line whole. Power
loss is bounded by `sync`, which the shipper calls with each batch.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from headgate.core.errors import Overloaded
from headgate.core.usage import Receipt

SEGMENT_BYTES = 64 * 1024 * 1024
UNWRITTEN_MAX = 10_000
"""Receipts kept in memory while the disk takes none; no new call is let in meanwhile, so few come."""
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND


class Journal:
    """Appends receipts to numbered segments in `folder`; reads them back for the shipper.

    A torn last line (a disk that filled mid-write) is closed with a newline before the next and skipped by readers.
    What could not be written stays in memory, in order, and goes first once the disk takes it again.
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
        self.lost = 0
        """Receipts that were given up because too many could not be written."""
        self._unwritten: deque[bytes] = deque()
        self._torn = False
        existing = self.segments()
        self._number = existing[-1] if existing else 1
        self._fd, self._size = self._open(self._number)

    def append(self, receipt: Receipt) -> None:
        """Raises `Overloaded` where the line could not be written whole: the caller must not report success."""
        if len(self._unwritten) >= UNWRITTEN_MAX:
            self._unwritten.popleft()
            self.lost += 1
        self._unwritten.append(self._encode(receipt) + b"\n")
        try:
            self._write_all()
        except OSError as error:
            raise Overloaded(
                f"The usage ledger cannot be written ({self.broken}); no paid work is done until it can. "
                "Free some space, or mend the disk.",
                code="ledger_unavailable",
                retry_after=5.0,
            ) from error

    def probe(self) -> None:
        """Tries whether a broken journal can be written again: what waits, else an empty line, which readers skip."""
        if not self._unwritten:
            self._unwritten.append(b"\n")
        try:
            self._write_all()
        except OSError:
            return  # `broken` says why

    def _write_all(self) -> None:
        """Raises `OSError`; then what is left waits for the next time."""
        try:
            while self._unwritten:
                self._write(self._unwritten[0])
                self._unwritten.popleft()
        except OSError as error:
            self.broken = error.strerror or str(error)
            raise
        self.broken = None
        self.on_append()

    def _write(self, line: bytes) -> None:
        if self._size + len(line) > self._segment_bytes and self._size > 0:
            self._rotate()
        if self._torn:
            line = b"\n" + line
        written = os.write(self._fd, line)
        self._size += written
        self._torn = written != len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
            data = file.read(limit_bytes) + file.readline()
        end = data.rfind(b"\n") + 1
        return data[:end].splitlines(), position + end

    def sync(self) -> None:
        """On a descriptor of its own: it runs in a thread, and the one that is written may be closed meanwhile."""
        fd = os.open(self._path(self._number), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def remove(self, segment: int) -> None:
        """Removes a segment whose receipts are all in the ledger; never the one being written."""
        if segment != self._number:
            self._path(segment).unlink(missing_ok=True)

    def close(self) -> None:
        if self._fd >= 0:
            if self._unwritten:
                self.probe()
            os.close(self._fd)
            self._fd = -1

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}.jsonl"

    def _rotate(self) -> None:
        fd, size = self._open(self._number + 1)
        os.close(self._fd)
        self._fd, self._size, self._number, self._torn = fd, size, self._number + 1, False

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
