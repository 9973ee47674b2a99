"""From ASGI to our own request and sink, and back."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from typing import Any

from headgate.api.connection import Door
from headgate.api.http import ClientGone, Handler
from headgate.core.errors import TooLarge
from headgate.core.reply import Header

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Coroutine[Any, Any, None]]


class AsgiRequest:
    """A request as ASGI tells it."""

    __slots__ = ("_first", "_receive", "client", "complete", "headers", "method", "path", "query", "version")

    def __init__(self, scope: Message, receive: Receive) -> None:
        self._receive = receive
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope["query_string"].decode("latin-1")
        self.version: str = scope["http_version"]
        self.headers: Sequence[Header] = scope["headers"]
        self._first: dict[bytes, bytes] = dict(self.headers)
        peer = scope["client"]
        self.client: str = peer[0] if peer else ""
        length = self._first.get(b"content-length", b"0")
        self.complete = length == b"0" and b"transfer-encoding" not in self._first
        """Nothing of this request is still to be read."""

    def header(self, name: bytes) -> bytes | None:
        return self._first.get(name)

    async def body(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        size = 0
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece = message.get("body", b"")
            size += len(piece)
            if size > limit:
                raise TooLarge(f"The request's body is larger than {limit} bytes, the most this endpoint accepts.")
            pieces.append(piece)
            self.complete = not message.get("more_body", False)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class AsgiSink:
    """An answer, as ASGI messages. Head and first bytes leave in one packet."""

    __slots__ = ("_bare", "_door", "_head", "_request", "_send", "begun", "ended")

    def __init__(self, send: Send, door: Door, request: AsgiRequest) -> None:
        self._send = send
        self._door = door
        self._request = request
        self._head: Message | None = None
        self._bare = request.version == "1.0" and request.method != "HEAD"
        """HTTP/1.0 has no chunks: a body of unknown length ends with the connection (RFC 9112, section 6.1)."""
        self.begun = False
        self.ended = False

    @property
    def gone(self) -> bool:
        return self._door.gone

    def start(self, status: int, headers: Sequence[Header]) -> None:
        if self.begun:
            raise RuntimeError("the answer has begun: its head cannot change")
        self._head = {"type": "http.response.start", "status": status, "headers": headers}

    def _begin(self) -> Message:
        if self._head is None:
            raise RuntimeError("an answer needs a head before its body")
        self.begun = True
        if not self._request.complete:  # what is left of the body could be taken for the next request
            self._head["headers"] = [*self._head["headers"], (b"connection", b"close")]
        self._door.cork()
        return self._head

    async def write(self, data: bytes) -> None:
        if not self.begun:
            await self._send(self._begin())
        if self._bare:
            data = await self._past_the_framing(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes = b"") -> None:
        if not self.begun:
            await self._send(self._begin())
        if self._bare:
            data = await self._past_the_framing(data)
        self.ended = True
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    async def _past_the_framing(self, data: bytes) -> bytes:
        """Writes as it is what the server would frame; what is left for the server is nothing."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": True})  # waits for a slow client
        if not self._door.gone:
            self._door.write(data)
        return b""

    def nudge(self, data: bytes) -> None:
        if self.ended or self._door.gone or self._door.blocked:
            return
        if not self.begun:
            _at_once(self._send(self._begin()))
        if self._bare:
            self._door.write(data)
            return
        _at_once(self._send({"type": "http.response.body", "body": data, "more_body": True}))


def _at_once(sending: Coroutine[Any, Any, None]) -> None:
    """Drives a send that has nothing to wait for: the server's `send` waits only while writing is paused."""
    try:
        sending.send(None)
    except StopIteration:
        return
    sending.close()
    raise RuntimeError("the server made a heartbeat wait")


class AsgiApplication:
    """Runs the handler. The connection cancels it when the client leaves, or when the grace time is over."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        door: Door = scope["state"]["door"]
        task = asyncio.current_task()
        if door.gone or task is None:
            return
        request = AsgiRequest(scope, receive)
        door.task = task
        try:
            await self._handler(request, AsgiSink(send, door, request))
        except asyncio.CancelledError:
            if not door.gone:
                door.abort()
        finally:
            door.task = None
