"""One connection of a client: requests in, answers out, one after another."""

import asyncio
import random
import socket
import struct
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from headgate.bench.chaos.fault import Host, Order
from headgate.bench.chaos.request import Malformed, Reader, Request
from headgate.bench.chaos.script import Script, refusal
from headgate.core.clock import Clock

_AHEAD = 1 << 20
"""Bytes that a client may send while its answer is being written."""
_LINGER = struct.pack("ii", 1, 0)
_FLUSH_S = 5.0
_SETTLE_S = 0.02
"""Seconds between the last byte and a reset, so that the bytes are read first."""
_HELLO = 0x16
"""The first byte of a TLS handshake."""


class Logic(Host, Protocol):
    """The server, as a connection needs it."""

    clock: Clock

    def opened(self, connection: "Connection") -> None: ...

    def closed(self, connection: "Connection", *, busy: bool) -> None: ...

    def answer(self, connection: "Connection", request: Request) -> None:
        """Calls `finish` or `run` of the connection."""
        ...

    def hello(self, connection: "Connection") -> None:
        """A client speaks TLS to a server that does not."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]: ...


class Connection(asyncio.Protocol):
    """Reads requests and hands them to the server; holds back a client that sends ahead."""

    def __init__(self, logic: Logic) -> None:
        self._logic = logic
        self._reader = Reader()
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._begun = False
        self.answered = 0
        self.busy = False
        self.counted = False
        """The request in hand is one of those in `Stats.open`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._logic.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._logic.closed(self, busy=self.busy)
        if self._task is not None:
            self._task.cancel()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data[0] == _HELLO:
                self.busy = True
                return self._logic.hello(self)
        self._reader.feed(data)
        if self.busy:
            if len(self._reader) > _AHEAD:
                self.transport.pause_reading()
            return None
        return self._next()

    def _next(self) -> None:
        while not self.busy and not self.transport.is_closing():
            try:
                request = self._reader.next()
            except Malformed as error:
                script = refusal(str(error), error.status, "chat").altered(headers=(("connection", "close"),))
                return self.finish(script.wire(), keep=False)
            if request is None:
                if self._reader.expects:
                    self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return None
            self.busy = True
            self._logic.answer(self, request)
        return None

    def finish(self, data: bytes, *, keep: bool) -> None:
        """The whole answer at once."""
        if data:
            self.transport.write(data)
        self._done(keep)

    def _done(self, keep: bool) -> None:
        self.busy = False
        self._task = None
        self.answered += 1
        if not keep:
            self.transport.close()

    def run(self, work: Coroutine[Any, Any, bool]) -> None:
        """An answer that takes its time: `work` writes it and returns whether to go on."""
        self._task = self._logic.spawn(self._work(work))

    async def _work(self, work: Coroutine[Any, Any, bool]) -> None:
        try:
            keep = await work
        except ConnectionError:
            return  # the client has left; `connection_lost` counts it
        self._done(keep)
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._next()

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    async def write(self, data: bytes) -> None:
        if self.transport.is_closing():
            raise ConnectionResetError
        self.transport.write(data)
        if self._room is not None:
            await self._room
        else:
            await asyncio.sleep(0)

    async def reset(self) -> None:
        """Sends what was written, then RST."""
        clock = self._logic.clock
        end = clock.monotonic() + _FLUSH_S
        while self.transport.get_write_buffer_size() and clock.monotonic() < end:
            await clock.sleep(0.001)
        await clock.sleep(_SETTLE_S)
        peer = self.transport.get_extra_info("socket")
        if peer is not None and not self.transport.is_closing():
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
        self.transport.abort()


class Writing:
    """One request on its way to an answer: what `fault.Exchange` promises."""

    def __init__(self, connection: Connection, logic: Logic, script: Script, order: Order, rng: random.Random) -> None:
        self._connection = connection
        self._first_s = order.number("first_ms", 0) / 1000
        self._pause = 1 / rate if (rate := order.number("rate", 0)) > 0 else 0.0
        self._headed = False
        self._sent = 0
        self._start = 0.0
        self.script = script
        self.clock = logic.clock
        self.host: Host = logic
        self.rng = rng

    @property
    def used(self) -> bool:
        return self._connection.answered > 0

    async def write(self, data: bytes) -> None:
        await self._connection.write(data)

    async def reset(self) -> None:
        await self._connection.reset()

    async def send(self, start: int, stop: int | None = None) -> None:
        script = self.script
        pieces = script.pieces()[start:stop]
        lead = b"" if self._headed else script.head()
        self._headed = True
        if not self._first_s and not self._pause:
            return await self.write(lead + b"".join(map(script.framed, pieces)))
        if lead:
            await self.write(lead)
        for piece in pieces:
            await self._due()
            await self.write(script.framed(piece))
        return None

    async def _due(self) -> None:
        """Waits until the next piece is due: late ones follow at once, so that the pace holds under load."""
        now = self.clock.monotonic()
        if self._sent == 0:
            self._start = now + self._first_s
        wait = self._start + self._sent * self._pause - now
        self._sent += 1
        if wait > 0:
            await self.clock.sleep(wait)
