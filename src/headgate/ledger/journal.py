"""The ledger's first half: an append-only local log of what left for an upstream, and of what came of it.

An attempt's `Opening` is written before it leaves, its receipt before an answer's last byte leaves: one JSON line each,
one `write` call per line. After kill -9 the page cache still holds every line whole; an opening without a receipt is
then an attempt whose process died (`ledger.recovery`). Power loss is bounded by `sync`, which the shipper calls with
each batch.
"""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from headgate.core.errors import Overloaded
from headgate.core.usage import Opening, Receipt

SEGMENT_BYTES = 64 * 1024 * 1024
UNWRITTEN_MAX = 10_000
"""Receipts kept in memory while the disk takes none; no new call is let in meanwhile, so few come."""
OPENING = b'{"opening":'
"""How the line of an opening begins. Receipts begin with their id."""
MB = 1024 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_CLOSE_TORN = b"~\n"
"""Ends a line that was not written whole. With the sign, so that one which lacks but its newline is not taken as whole:
who wrote it was told that it failed."""


class LedgerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The local log."""

    max_unshipped_mb: Annotated[int, Meta(ge=1, le=1_000_000)] = 1024
    """While more than this waits for the database, new calls are refused with 503 (`ledger_behind`)."""


class Journal:
    """Appends openings and receipts to numbered segments in `folder`; reads them back for the shipper.

    A line torn by a disk that filled mid-write is closed before the next and skipped by readers. A receipt that could
    not be written stays in memory, in order, and goes first once the disk takes it again; an opening does not, because
    its attempt does not leave. One process at a time may have a folder: the lock is that of the home folder.
    """

    def __init__(
        self, folder: Path, segment_bytes: int = SEGMENT_BYTES, settings: LedgerSettings | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._unshipped_max = (settings or LedgerSettings()).max_unshipped_mb * MB
        self._encode = msgspec.json.Encoder().encode
        self.on_append: Callable[[], None] = lambda: None
        """Called after each append: the shipper's wake-up."""
        self.broken: str | None = None
        """Why the last write failed; None while the journal works."""
        self.lost = 0
        """Receipts that were given up because too many could not be written."""
        self._unwritten: deque[tuple[str, bytes]] = deque()
        """Ids and lines of receipts."""
        self._under_way: dict[str, bytes] = {}
        """The lines of this process's openings whose receipts are not written yet, by id."""
        self._torn = False
        self._carried = 0
        existing = self.segments()
        self._number = existing[-1] if existing else 1
        self._fd, self._size = self._open_segment(self._number)
        self.unshipped = sum(self.size(segment) for segment in self.segments())
        """Bytes that SQL does not have yet; at most: the shipper corrects it with each batch."""

    @property
    def full(self) -> bool:
        """So much waits for SQL that no new paid work may begin. It ends by itself when SQL takes receipts again."""
        return self.unshipped > self._unshipped_max

    @property
    def under_way(self) -> int:
        """Openings of this process that have no receipt yet."""
        return len(self._under_way)

    def check_room(self) -> None:
        """Raises `Overloaded` while too much waits for SQL (`full`)."""
        if self.full:
            raise Overloaded(
                f"The usage ledger is behind: over {self._unshipped_max // MB} MB of receipts wait for the database. "
                "No paid work is begun until it takes them; see that the database can be reached.",
                code="ledger_behind",
                retry_after=5.0,
            )

    def open(self, opening: Opening) -> None:
        """To be called before the attempt leaves; `append` a receipt of the same id when it ended.

        Raises `Overloaded` where the line could not be written whole, or too much waits for SQL (`full`): then the
        attempt must not leave, and no receipt is owed.
        """
        self.check_room()
        line = self._encode(opening) + b"\n"
        try:
            self._write_waiting()
            self._write(line)
        except OSError as error:
            raise self._unavailable(error) from error
        self._under_way[opening.opening.id] = line

    def append(self, receipt: Receipt) -> None:
        """Raises `Overloaded` where the line could not be written whole: the caller must not report success."""
        if len(self._unwritten) >= UNWRITTEN_MAX:
            self._unwritten.popleft()
            self.lost += 1
        self._unwritten.append((receipt.id, self._encode(receipt) + b"\n"))
        try:
            self._write_waiting()
        except OSError as error:
            raise self._unavailable(error) from error

    def probe(self) -> None:
        """Tries whether a broken journal can be written again: what waits, else an empty line, which readers skip."""
        if not self._unwritten:
            self._unwritten.append(("", b"\n"))
        try:
            self._write_waiting()
        except OSError as error:
            self._unavailable(error)  # `broken` says why

    def _unavailable(self, error: OSError) -> Overloaded:
        self.broken = error.strerror or str(error)
        return Overloaded(
            f"The usage ledger cannot be written ({self.broken}); no paid work is done until it can. "
            "Free some space, or mend the disk.",
            code="ledger_unavailable",
            retry_after=5.0,
        )

    def _write_waiting(self) -> None:
        """Raises `OSError`; then what is left waits for the next time."""
        if not self._unwritten:
            return
        while self._unwritten:
            name, line = self._unwritten[0]
            self._write(line)
            self._unwritten.popleft()
            self._under_way.pop(name, None)
        self.on_append()

    def _write(self, line: bytes) -> None:
        if self._size + len(line) > self._segment_bytes + self._carried and self._size > self._carried:
            self._rotate()
        if self._torn:
            line = _CLOSE_TORN + line
        written = os.write(self._fd, line)
        self._size += written
        self.unshipped += written
        self._torn = written != len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.broken = None

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
        """Openings still under way are repeated in the new segment, so that every older one may be removed."""
        number = self._number + 1
        fd, size = self._open_segment(number)
        carried = b"".join(self._under_way.values())
        try:
            if carried and os.write(fd, carried) != len(carried):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.close(fd)
            self._path(number).unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self._size, self._number, self._torn = fd, size + len(carried), number, False
        self._carried = len(carried)
        self.unshipped += len(carried)

    def _open_segment(self, number: int) -> tuple[int, int]:
        path = self._path(number)
        fd = os.open(path, _FLAGS, 0o600)
        size = os.fstat(fd).st_size
        if size and not _ends_with_newline(path):
            size += os.write(fd, _CLOSE_TORN)
        return fd, size


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def decode(lines: list[bytes]) -> Iterator[Receipt | None]:
    """The receipts of journal lines; None for a torn line. Openings are passed over: they are not for SQL."""
    decoder = msgspec.json.Decoder(Receipt)
    for line in lines:
        if not line or line.startswith(OPENING):
            continue
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:
            yield None
