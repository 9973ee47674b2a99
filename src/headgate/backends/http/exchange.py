"""One request and its response on one connection; the connection goes back as soon as the message is complete."""

import asyncio
import io
import select
import socket
from collections.abc import Callable
from typing import cast

from headgate.backends.http.framing import BadResponse, Response
from headgate.backends.http.patience import Patience
from headgate.core.errors import Failed, Truncated, Upstream, UpstreamTimeout

HIGH_WATER_BYTES = 64 * 1024
"""Unread body beyond which the socket is left unread until the consumer has caught up."""

KERNEL_BYTES = 128 * 1024
"""What the kernel may hold besides (it takes twice that): left to itself it takes megabytes of an unread answer, which
the upstream then believes delivered.
"""

DRAIN_BYTES = 64 * 1024
DRAIN_SECONDS = 1.0
"""What a response may still send, and for how long, after its consumer has what it wanted."""


class Connection(asyncio.Protocol):
    """A connection to a server: idle, or busy with one exchange."""

    def __init__(self, lost: "Callable[[Connection], None]") -> None:
        self._lost = lost
        self.transport: asyncio.Transport
        self.exchange: Exchange | None = None
        self.idle_since = 0.0
        self._poll = select.poll()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("socket")
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
        self._poll.register(peer.fileno(), select.POLLIN)

    def is_quiet(self) -> bool:
        """Open, and nothing waits to be read: neither the server's goodbye nor bytes that nobody asked for."""
        return not self.transport.is_closing() and not self._poll.poll(0)

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.transport.abort()  # nobody asked: an answer without a question must never reach the next caller
        else:
            self.exchange.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.exchange is None:
            self._lost(self)
        else:
            self.exchange.lost(exc)


class Exchange:
    """`await head()`, then `status` and `headers`; the body by `async for` or `read_all`.

    Pieces are merged where the consumer lags. Raises `Upstream`, `UpstreamTimeout` or `Truncated`. A consumer that is
    cancelled while it waits, or calls `abort`, closes the connection at once. `progress()` tells that something worth
    waiting for arrived.
    """

    __slots__ = (
        "_connection",
        "_draining",
        "_ended",
        "_error",
        "_loop",
        "_paused",
        "_response",
        "_waiter",
        "patience",
        "untouched",
    )

    def __init__(self, response: Response, ended: Callable[[Connection, bool], None]) -> None:
        """`ended` gets the connection back, once, and whether it may be used again."""
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._ended = ended
        self._connection: Connection | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: Failed | None = None
        self._paused = False
        self._draining: int | None = None
        self.patience: Patience
        self.untouched = False
        """The connection was lost before one byte of a response: the server closed it while it lay idle."""

    def begin(self, connection: Connection, data: bytes, patience: Patience) -> None:
        self._connection = connection
        self.patience = patience
        connection.exchange = self
        connection.transport.write(data)

    # the consumer's side

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case."""
        return self._response.headers

    def header(self, name: bytes) -> bytes | None:
        return self._response.header(name)

    @property
    def open(self) -> bool:
        """It still holds its connection."""
        return self._connection is not None

    @property
    def draining(self) -> bool:
        return self._draining is not None

    async def head(self) -> None:
        while not self._response.head_done:
            if self._error is not None:
                raise self._error
            await self._wait()

    def __aiter__(self) -> "Exchange":
        return self

    async def __anext__(self) -> bytes:
        response = self._response
        while not response.chunks:
            if self._error is not None:
                raise self._error
            if response.done or self._connection is None:
                raise StopAsyncIteration
            await self._wait()
        data = response.take()
        if self._paused:
            self._resume()
        return data

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body; every byte counts as progress. Beyond the limit it raises `Upstream` and closes.

        A large one is held once: its pieces go into a buffer that becomes the body.
        """
        body, large = b"", None
        size = 0
        async for data in self:
            self.patience.progress()
            size += len(data)
            if size > limit_bytes:
                self.abort()
                data, large = b"", None  # the error keeps this frame, and must not keep the body
                raise Upstream(f"the model server's answer is larger than {limit_bytes} bytes")
            if large is not None:
                large.write(data)
            elif body:
                large = io.BytesIO()
                large.write(body)
                large.write(data)
            else:
                body = data
        return body if large is None else large.getvalue()

    def progress(self) -> None:
        self.patience.progress()

    def abort(self) -> None:
        """Ends the exchange now. Idempotent."""
        if self._connection is not None:
            self._error = Truncated("the call to the model server was closed")  # what is missing must not look complete
            self._end(reusable=False)
            self._wake()

    def drain(self) -> None:
        """The consumer has all it wants: what little may follow is thrown away, then the connection goes back.

        More than `DRAIN_BYTES` or `DRAIN_SECONDS` close the connection instead.
        """
        if self._connection is None:
            return
        self._response.take()
        self._draining = 0
        self.patience.stop()
        self.patience = Patience(
            self._loop, (DRAIN_SECONDS, DRAIN_SECONDS), (self._loop.time() + DRAIN_SECONDS, DRAIN_SECONDS), self.expired
        )
        self.patience.waiting()
        if self._paused:
            self._resume()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        self.patience.waiting()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None
            self.patience.woke()

    # the connection's side

    def received(self, data: bytes) -> None:
        response = self._response
        try:
            response.feed(data)
        except BadResponse as error:
            self._fail(Upstream("the model server did not speak HTTP properly", code="upstream_protocol"), error)
            return
        if response.done:
            self._end(reusable=True)
        elif self._draining is not None:
            self._draining += len(response.take())
            if self._draining > DRAIN_BYTES:
                self.abort()
        elif response.buffered > HIGH_WATER_BYTES and not self._paused and self._connection is not None:
            self._paused = True
            self._connection.transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and response.head_done and not waiter.done():
            waiter.set_result(None)

    def lost(self, exc: Exception | None) -> None:
        response = self._response
        if response.end():
            self._end(reusable=False)
            self._wake()
        elif response.head_done:
            self._fail(Truncated("the model server's answer was cut off"), exc)
        else:
            self.untouched = not response.started
            self._fail(Upstream("the model server closed the connection unanswered", code="upstream_disconnected"), exc)

    def expired(self, error: UpstreamTimeout) -> None:
        self._fail(error, None)

    def _fail(self, error: Failed, cause: Exception | None) -> None:
        error.__cause__ = cause
        self._error = error
        self._end(reusable=False)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _resume(self) -> None:
        self._paused = False
        if self._connection is not None and not self._connection.transport.is_closing():
            self._connection.transport.resume_reading()

    def _end(self, *, reusable: bool) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self.patience.stop()
        connection.exchange = None
        response = self._response
        transport = connection.transport
        reusable = (
            reusable
            and response.keep_alive
            and not response.extra
            and not transport.is_closing()
            and transport.get_write_buffer_size() == 0  # answered before it had read the question
        )
        if not reusable:
            transport.abort()
        elif self._paused:
            transport.resume_reading()
        self._paused = False
        self._ended(connection, reusable)
