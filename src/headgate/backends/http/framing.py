"""Response framing (RFC 9112) without I/O: bytes in, head and body pieces out. httptools (llhttp) does the parsing."""

import httptools
from msgspec import Struct

_INTERIM_MAX = 16
"""How many 1xx answers may come before the real one."""


class BadResponse(Exception):
    """The bytes are not an HTTP/1.1 response we accept; the text says why."""


class HeadLimits(Struct, frozen=True):
    """What the head of a response may weigh."""

    size_bytes: int = 64 * 1024
    count: int = 200


class Response:
    """One response. `feed` it the bytes as read; look at `head_done`, `done`, `buffered`; `take` the body so far.

    `extra` is set where bytes follow the message: such a connection must not be used again.
    """

    __slots__ = (
        "_fed",
        "_head_bytes",
        "_head_count",
        "_interim",
        "_limits",
        "_parser",
        "_wrong",
        "buffered",
        "chunks",
        "done",
        "extra",
        "head_done",
        "headers",
        "keep_alive",
        "sized",
        "started",
        "status",
    )

    def __init__(self, limits: HeadLimits) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._limits = limits
        self._fed = 0
        self._head_bytes = 0
        self._head_count = 0
        self._interim = 0
        self._wrong = ""
        self.sized = False
        """The end of the body is known from its framing, not from the connection's end."""
        self.started = False
        self.head_done = False
        self.done = False
        self.extra = False
        self.keep_alive = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.chunks: list[bytes] = []
        self.buffered = 0

    def feed(self, data: bytes) -> None:
        """Raises `BadResponse`; the response is unusable after that."""
        parser = self._parser
        if parser is None:
            self.extra = self.extra or bool(data)
            return
        self.started = True
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.done:
                self.extra = True
            else:
                raise BadResponse(self._wrong or "not HTTP/1.1") from error
        if self.done:
            self._parser = None  # parser and response refer to each other
        elif not self.head_done:
            self._fed += len(data)  # a header that never ends is not yet a header to httptools
            if self._fed > self._limits.size_bytes:
                raise BadResponse("the head is too large")

    def end(self) -> bool:
        """The connection has ended. True if the response is complete by that."""
        self._parser = None
        if self.head_done and not self.done and not self.sized:
            self.done = True
        return self.done

    def take(self) -> bytes:
        """The body bytes that arrived since the last call, in one piece."""
        chunks = self.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self.chunks = []
        self.buffered = 0
        return data

    def header(self, name: bytes) -> bytes | None:
        """The first header of that lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None

    def _refuse(self, why: str) -> None:
        self._wrong = why
        raise BadResponse(why)

    # called by httptools

    def on_message_begin(self) -> None:
        if self.done:
            self.extra = True
            raise BadResponse("bytes after the message")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_count += 1
        self._head_bytes += len(name) + len(value)
        if self._head_count > self._limits.count:
            self._refuse("too many headers")
        if self._head_bytes > self._limits.size_bytes:
            self._refuse("the head is too large")
        if not self.head_done:  # trailers are weighed, not kept
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < 200:
            if status == 101:
                self._refuse("an upgrade nobody asked for")
            return
        self.status = status
        self.keep_alive = parser.should_keep_alive()
        self._read_framing(status)
        self.head_done = True

    def _read_framing(self, status: int) -> None:
        for name, value in self.headers:
            if name == b"content-length":
                self.sized = True
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    self._refuse("an unknown transfer-encoding")
                self.sized = True
            elif name == b"content-encoding" and value.strip().lower() not in {b"", b"identity"}:
                self._refuse("a compressed answer that was not asked for")
        if status in {204, 304}:
            self.sized = True

    def on_body(self, data: bytes) -> None:
        self.chunks.append(data)
        self.buffered += len(data)

    def on_message_complete(self) -> None:
        if self.head_done:
            self.done = True
            return
        self._interim += 1
        if self._interim > _INTERIM_MAX:
            self._refuse("too many interim answers")
        self.headers = []
