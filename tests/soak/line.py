"""A client's connection that is kept and used again, for very many calls: a bare protocol, so that it costs little."""

import asyncio
import re
from typing import Any, cast

import msgspec

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CONTENT = re.compile(rb'"content":("(?:[^"\\]|\\.)*")')
_MARKER = re.compile(rb"marker-[0-9A-Za-z_.-]+")
_LAST = b"0\r\n\r\n"
AHEAD = 4
"""Answers that may be here before anybody asks for them: more calls are never sent ahead."""


class Heard:
    """One answer as it came, whole."""

    __slots__ = ("body", "head", "status")

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head = head
        self.body = body
        self.status = int(head[9:12])

    def header(self, name: str) -> str | None:
        """`name` in small letters."""
        found = re.search(rb"\r\n" + name.encode() + rb": *([^\r]*)", self.head, re.IGNORECASE)
        return found[1].decode() if found is not None else None

    @property
    def markers(self) -> set[str]:
        """Every marker that stands anywhere in it."""
        return {found.decode() for found in _MARKER.findall(self.body)}

    @property
    def text(self) -> str:
        """What the model said, of a stream or a whole answer with one choice."""
        return text_of(self.body)

    @property
    def complete(self) -> bool:
        """It says of itself that it is."""
        return self.status == 200 and (self.body.endswith(b"data: [DONE]\n\n") or self.body[:1] == b"{")


def text_of(body: bytes) -> str:
    return "".join(msgspec.json.decode(piece, type=str) for piece in _CONTENT.findall(body))


class Line(asyncio.Protocol):
    """Sends calls one after another, or a few ahead; answers come in that order. Closed by either side it is done."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self.open = True
        self.received = 0
        """Bytes, of all answers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self.received += len(data)
        self._wake()

    def eof_received(self) -> None:
        self.open = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def send(self, data: bytes) -> None:
        """Where the other side has closed meanwhile the answer will be None."""
        if self.open:
            self._transport.write(data)

    async def more(self) -> None:
        """Waits for something to happen."""
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    async def begun(self, size: int) -> bytes:
        """What has come of the answer, once it is so many bytes, or all of it, or the connection has ended."""
        while len(self._buffer) < size and self.open and not self._buffer.endswith(_LAST):
            await self.more()
        return bytes(self._buffer)

    async def answer(self) -> Heard | None:
        """The next answer, whole; None where the connection ended before its end."""
        while (found := self._take()) is None:
            if not self.open:
                return None
            await self.more()
        return found

    def _take(self) -> Heard | None:
        buffer = self._buffer
        head_end = buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return None
        head = bytes(buffer[: head_end + 2])
        start = head_end + 4
        length = _LENGTH.search(head)
        if length is not None:
            end = start + int(length[1])
            if len(buffer) < end:
                return None
            body = bytes(buffer[start:end])
        else:
            if not buffer.endswith(_LAST) and buffer.find(b"\r\n" + _LAST, start) < 0:
                return None
            unframed = dechunked(buffer, start)
            if unframed is None:
                return None
            body, end = unframed
        del buffer[:end]
        return Heard(head, body)

    def pause(self) -> None:
        """Reads no more, and stays."""
        self._transport.pause_reading()

    def close(self) -> None:
        """Leaves, whatever is still to come."""
        self.open = False
        self._transport.abort()


def dechunked(buffer: bytes | bytearray, start: int) -> tuple[bytes, int] | None:
    """The chunked body that begins at `start`, and the place behind it; None where it is not whole."""
    pieces: list[bytes] = []
    while (line := buffer.find(b"\r\n", start)) >= 0:
        size = int(bytes(buffer[start:line]), 16)
        start = line + 2 + size + 2
        if start > len(buffer):
            return None
        if size == 0:
            return b"".join(pieces), start
        pieces.append(bytes(buffer[line + 2 : start - 2]))
    return None


def partial_body(data: bytes) -> bytes:
    """What came of a chunked body that was left in the middle: its whole chunks."""
    head, found, rest = data.partition(b"\r\n\r\n")
    pieces: list[bytes] = []
    while found:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size or b"0", 16) + 2:
            break
        length = int(size, 16)
        pieces.append(rest[:length])
        rest = rest[length + 2 :]
    return b"".join(pieces) if head else b""


async def connect(port: int) -> Line:
    """Raises `OSError` where nobody listens."""
    _, line = await asyncio.get_running_loop().create_connection(Line, "127.0.0.1", port)
    return line


def call(key: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> bytes:
    """A chat request as it stands on the wire."""
    data = msgspec.json.encode(body)
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: soak\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\n{more}content-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data
