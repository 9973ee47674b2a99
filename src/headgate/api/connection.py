"""One client connection: uvicorn's httptools protocol, with limits on what a client may send and how slowly.

What it adds: a bound on the head, deadlines for head, body and reading of the answer, a bound on pipelining,
refusals in the api's own error shape, a lingering close (so that a refused client can read why), and cancellation of
the running handler the moment the client leaves.

    HEAD ──head complete──► BODY ──message complete──► IDLE ──first byte──► HEAD
"""

import asyncio
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from headgate.api.settings import ServerSettings
from headgate.core.errors import BadCall, HeadgateError, Overloaded

FRAMING_ALLOWANCE = 256 * 1024
"""Bytes that chunk sizes, extensions and trailers may take beyond as many as the body itself."""

UNSENT_MAX = 64 * 1024
"""Bytes of an answer that the kernel may hold unsent for a client that does not read. By itself it takes megabytes, of
which nobody up here would know: neither that the client reads slowly, nor that it was not sent yet."""

_JOINED_MAX = 64 * 1024
"""Bytes of a body that are joined with the head to one write."""

MAX_PIPELINED = 16
"""Requests a client may send ahead of their answers on one connection."""

Refusal = Callable[[HeadgateError], bytes]
"""Renders an error as one whole HTTP/1.1 response."""


_INVALID = BadCall("The request is not valid HTTP/1.1.", code="invalid_http")
_HEAD_TOO_LARGE = BadCall("The request's head or trailer is too large.", code="head_too_large", status=431)


class Reading(Enum):
    """What the parser expects next."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"


class Door:
    """A response's view of its connection: what is written passes here, and here it learns that the client left."""

    __slots__ = ("_connection", "_corked", "_held", "gone", "task")

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._corked = False
        self._held = b""
        self.gone = False
        self.task: asyncio.Task[Any] | None = None
        """The handler now running."""

    @property
    def blocked(self) -> bool:
        """The client reads too slowly: writing must wait."""
        return self._connection.flow.write_paused

    def cork(self) -> None:
        """Holds the next write back, to join it with the one after."""
        self._corked = True

    def write(self, data: bytes) -> None:
        if self._corked:
            self._corked = False
            self._held = data
            return
        if len(data) > _JOINED_MAX:
            self.flush()  # a large body is not copied to save a packet
        elif self._held:
            data, self._held = self._held + data, b""
        self._connection.transport.write(data)

    def flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._connection.transport.write(held)

    def is_closing(self) -> bool:
        return self._connection.transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._connection.leave()

    def abort(self) -> None:
        self._connection.transport.abort()

    def client_left(self) -> None:
        self.gone = True
        self.cancel("the client left")

    def cancel(self, reason: str) -> None:
        if self.task is not None:
            self.task.cancel(reason)


class Connection(HttpToolsProtocol):
    """A client's connection. `check` is called about once a second by the server, with the loop's time."""

    def __init__(
        self,
        config: Config,
        state: ServerState,
        settings: ServerSettings,
        refusal: Refusal,
        closed: Callable[[], None],
    ) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._settings = settings
        self._refusal = refusal
        self._closed = closed
        self._door = Door(self)
        self._reading = Reading.HEAD
        self._since = 0.0
        """When the head began, or the body's present window."""
        self._received = 0
        """Bytes of the head so far, or of the body in its present window."""
        self._fed = 0
        """Bytes read since this body began; `_body` of them were the body's own."""
        self._body = 0
        self._leaving: float | None = None
        """Since when this connection is being closed."""
        self._unread = 0.0
        """When bytes of ours were last seen that its client had yet to read."""
        self._paused: float | None = None
        """Since when the client has not read."""
        self._lingering = False
        self._draining = False
        self._declining = False
        """A head made by us is in the parser, not the client's."""
        self._verdict: HeadgateError | None = None
        """Why a parser callback stopped the parser."""

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer is not None:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_MAX)
        self._since = self.loop.time()
        if len(self.connections) > self._settings.max_connections:
            self._refuse(Overloaded("Too many connections; try again shortly.", retry_after=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.client_left()
        for cycle, _ in self.pipeline:
            cycle.disconnected = True
        self.pipeline.clear()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        self._closed()

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        self._unset_keepalive_if_required()
        reading = self._reading
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline_upgrade(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(self._verdict or _INVALID)
            return
        if self._reading is Reading.HEAD:
            self._received += len(data) if reading is Reading.HEAD else 1
            if self._received > (self._settings.max_header_kb + self._settings.max_url_kb) * 1024:
                self._refuse(_HEAD_TOO_LARGE)
        elif self._reading is Reading.BODY and reading is Reading.BODY:
            self._fed += len(data)
            framing = self._fed - self._body
            if framing > FRAMING_ALLOWANCE + self._body or len(self.headers) > self._settings.max_headers:
                self._refuse(_HEAD_TOO_LARGE)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Goes on in HTTP/1.1 after an offer such as `Upgrade: h2c`, which Java's client makes on every first request.

        The parser takes the rest of the connection for the other protocol; a new one, told how the body is framed,
        reads on.
        """
        framing = [header for header in self.headers if header[0] in {b"content-length", b"transfer-encoding"}]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in framing)
        self.parser = httptools.HttpRequestParser(self)
        self.headers = []  # the request has its own list already
        try:
            self._declining = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n" + head + b"\r\n")
            self._declining = False
            self.parser.feed_data(rest)
        except httptools.HttpParserError:
            self._refuse(self._verdict or _INVALID)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused = None

    # What the parser tells

    def on_message_begin(self) -> None:
        if self._declining:
            return
        if self._reading is Reading.IDLE:
            self._reading = Reading.HEAD
            self._since = self.loop.time()
            self._received = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self._declining:
            return
        super().on_url(url)
        if len(self.url) > self._settings.max_url_kb * 1024:
            limit = f"{self._settings.max_url_kb:g} KiB"
            self._verdict = BadCall(f"The URL is longer than {limit}.", code="url_too_long", status=414)
            raise ValueError("the URL is too long")

    def on_headers_complete(self) -> None:
        if self._declining:
            return
        self._reading = Reading.BODY
        self._since = self.loop.time()
        self._received = self._fed = self._body = 0
        super().on_headers_complete()
        self.scope["state"]["door"] = self._door
        self.cycle.transport = self._door  # type: ignore[assignment]
        if self.scope["http_version"] == "1.0":
            self.cycle.chunked_encoding = False  # see `AsgiSink`
        if self._draining:
            self.cycle.keep_alive = False
        if len(self.pipeline) > MAX_PIPELINED:
            self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._received += len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # the parser believes so; see `_decline_upgrade`
        self._reading = Reading.IDLE
        super().on_message_complete()
        self.flow.resume_reading()  # else nobody would notice that the client leaves

    # What the answer tells

    def on_response_complete(self) -> None:
        self._door.flush()
        if self._lingering or self.transport.is_closing():
            return
        if self._reading is Reading.BODY and self.cycle.response_complete:
            self._linger()  # answered before its body had come: what comes now is thrown away
            return
        super().on_response_complete()

    def leave(self) -> None:
        """Closes after the answer; waits for the client to have read it where more of its request may come."""
        if self._reading is Reading.BODY:
            self._linger()
        elif not self._lingering:
            self.transport.close()

    # What the server asks

    def check(self, now: float) -> None:
        """Ends the connection if its client is too slow."""
        limits = self._settings
        if self._lingering or self.transport.is_closing():
            self._leaving = self._leaving or now
            if self.transport.get_write_buffer_size():
                self._unread = now  # a slow client still reads its answer
            if now - max(self._leaving, self._unread) >= limits.linger_s or now - self._leaving >= limits.send_s:
                self.transport.abort()
        elif self._paused is not None:
            if now - self._paused >= limits.send_s:
                self.transport.abort()
        elif self._reading is Reading.HEAD:
            if now - self._since >= limits.head_s:
                self._refuse(BadCall("The request's head took too long.", code="request_timeout", status=408))
        elif self._reading is Reading.BODY:
            self._check_body(now)

    def _check_body(self, now: float) -> None:
        window = now - self._since
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:
            self._since, self._received = now, 0  # it is we who do not read
        elif window >= self._settings.body_window_s:
            if self._received < self._settings.body_min_rate * window or self._received == 0:
                self._refuse(BadCall("The request's body came too slowly.", code="request_timeout", status=408))
            self._since, self._received = now, 0

    def drain(self) -> None:
        """From now on each answer is this connection's last."""
        self._draining = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        for cycle, _ in self.pipeline:
            cycle.keep_alive = False

    @property
    def idle(self) -> bool:
        """Nothing of a request is here: closing it harms nobody."""
        busy = self.cycle is not None and not self.cycle.response_complete
        return not busy and (self._reading is Reading.IDLE or self._received == 0)

    def cancel(self) -> None:
        """The grace time is over: the running call is told so, and may still say why it ends."""
        self._door.cancel("the server is stopping")

    # Ends

    def _refuse(self, error: HeadgateError) -> None:
        """Answers for a request that no handler has answered, and closes."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if self.pipeline or (busy and self.cycle.response_started):
            self.transport.abort()
            return
        if busy:
            self.cycle.disconnected = True
            self._door.client_left()
        self.transport.write(self._refusal(error))
        self._linger()

    def _linger(self) -> None:
        """Ends our side and reads on for a moment: closing at once would throw away what the client has not read."""
        self._lingering = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
