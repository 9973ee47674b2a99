"""HTTP/1.1 requests read from bytes, as far as a model server needs it (RFC 9112)."""

from dataclasses import dataclass

HEAD_MOST = 1 << 16
BODY_MOST = 64 << 20


class Malformed(Exception):
    """No request that can be answered: `status` says why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    """Without the query."""
    headers: dict[str, str]
    """Names in small letters."""
    body: bytes
    keep: bool
    """The client keeps the connection."""


class Reader:
    """Takes bytes as they come and gives whole requests."""

    __slots__ = ("_buffer", "_head")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str], int, bool] | None = None

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    @property
    def expects(self) -> bool:
        """The client waits for leave to send the body."""
        return self._head is not None and self._head[2].get("expect", "").lower() == "100-continue"

    def next(self) -> Request | None:
        """The next request, or None until there is more. Raises `Malformed`."""
        if self._head is None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > HEAD_MOST:
                    raise Malformed(431, "the head is longer than 64 KiB")
                return None
            text = self._buffer[:end].decode("latin-1")
            del self._buffer[: end + 4]
            self._head = _head(text)
        method, path, headers, length, keep = self._head
        if len(self._buffer) < length:
            return None
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._head = None
        return Request(method, path, headers, body, keep)


def _head(text: str) -> tuple[str, str, dict[str, str], int, bool]:
    line, *rest = text.lstrip("\r\n").split("\r\n")
    parts = line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise Malformed(400, "the request line is not METHOD PATH HTTP/1.1")
    headers = {}
    for header in rest:
        name, colon, value = header.partition(":")
        if not colon:
            raise Malformed(400, "a header has no colon")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        raise Malformed(411, "send the body with a content-length")
    length = headers.get("content-length", "0")
    if not (length.isascii() and length.isdigit()):
        raise Malformed(400, "content-length is no number")
    if len(length) > 9 or int(length) > BODY_MOST:
        raise Malformed(413, "the body is larger than 64 MiB")
    close = headers.get("connection", "").lower() == "close" or (
        parts[2] == "HTTP/1.0" and headers.get("connection", "").lower() != "keep-alive"
    )
    return parts[0], parts[1].partition("?")[0], headers, int(length), not close
