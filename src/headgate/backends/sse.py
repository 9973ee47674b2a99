"""Server-sent events (WHATWG HTML, section 9.2), decoded without I/O, whatever the cuts between reads."""

from msgspec import Struct

EVENT_BYTES_MAX = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class SseEvent(Struct, frozen=True, gc=False):
    """`data` lines joined by LF; `event` is empty where the stream names none."""

    data: bytes
    event: bytes = b""


class EventTooLarge(Exception):
    """An event, or a line that never ends, outgrew the limit."""


class SseDecoder:
    """LF, CRLF or CR, a BOM, comments, ids and retries are understood; only events with data come out."""

    def __init__(self, limit_bytes: int = EVENT_BYTES_MAX) -> None:
        self._limit = limit_bytes
        self._held = bytearray()
        self._after_cr = False
        self._at_start = True

    def lone(self, data: bytes) -> bytes | None:
        """The data of the one event that these bytes are, where that is plain: most reads. Else None: `feed` them."""
        plain = (
            data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and b"\r" not in data
            and 8 < len(data) <= self._limit
            and not (self._held or self._after_cr or self._at_start)
        )
        return data[6:-2] if plain else None

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events completed by these bytes. Raises `EventTooLarge`."""
        if self._after_cr or b"\r" in data:
            data = self._line_feeds(data)
        held = self._held
        if self._at_start:
            data = bytes(held) + data
            held.clear()
            if len(data) < 3 and _BOM.startswith(data):
                held += data
                return []
            self._at_start = False
            data = data.removeprefix(_BOM)
        if not held and data.endswith(b"\n\n"):  # whole events in one read: the usual case, nothing is copied
            block = data
        else:
            known = max(0, len(held) - 1)
            held += data
            end = held.rfind(b"\n\n", known)
            if end < 0:
                if len(held) > self._limit:
                    raise EventTooLarge(f"an event is larger than {self._limit} bytes")
                return []
            block = bytes(held[: end + 2])
            del held[: end + 2]
        return self._events(block)

    def finish(self) -> list[SseEvent]:
        """The stream has ended: an event without its blank line still counts. It may be cut: check its data."""
        rest = bytes(self._held)
        self._held.clear()
        return self._events(rest)

    def _line_feeds(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]  # the second half of a CRLF whose first half was already a line's end
            if not data:
                self._after_cr = False
                return data
        self._after_cr = data.endswith(b"\r") if data else self._after_cr
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, block: bytes) -> list[SseEvent]:
        events = []
        for part in block.split(b"\n\n"):
            if len(part) > self._limit:
                raise EventTooLarge(f"an event is larger than {self._limit} bytes")
            if part.startswith(b"data: ") and b"\n" not in part:
                if len(part) > 6:
                    events.append(SseEvent(part[6:]))
            elif part:
                event = _parse(part)
                if event is not None:
                    events.append(event)
        return events


def _parse(part: bytes) -> SseEvent | None:
    data: list[bytes] = []
    name = b""
    for line in part.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    joined = b"\n".join(data)
    return SseEvent(joined, name) if joined else None
