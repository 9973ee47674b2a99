"""A TCP proxy between a client and a server that makes the network between them worse, as told at run time."""

import asyncio
import random
import socket
import struct
from collections.abc import Coroutine
from typing import Any, Literal

import msgspec

from headgate.bench.chaos.connection import Connection
from headgate.bench.chaos.listener import Listener
from headgate.bench.chaos.request import Request
from headgate.bench.chaos.script import plain, refusal
from headgate.bench.chaos.weather import FAIR, Lane, Weather
from headgate.core.clock import Clock
from headgate.core.tasks import Tasks

_CONNECT_S = 10.0
_READ = 1 << 14
_HELD = 64
"""Pieces on their way in one direction of one connection, at most."""
_LINGER = struct.pack("ii", 1, 0)
_FINISH_S = 5.0


class _Broken(Exception):
    """The connection is to end now, on both sides."""

    def __init__(self, how: Literal["rst", "fin"]) -> None:
        super().__init__(how)
        self.how = how


class ChaosProxy:
    """Passes bytes between its port and `target`, through the weather, until `close`."""

    def __init__(self, target: tuple[str, int], clock: Clock, rng: random.Random) -> None:
        self._target = target
        self._clock = clock
        self._rng = rng
        self.tasks = Tasks(limit=100_000)
        self.weather = FAIR
        self._moving = asyncio.Event()
        self._moving.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.counts = {"connections": 0, "open": 0, "up": 0, "down": 0, "resets": 0, "cuts": 0, "unreachable": 0}
        self.listener = Listener(self._protocol, clock, self.tasks)

    def _protocol(self) -> asyncio.Protocol:
        reader = asyncio.StreamReader(limit=_READ)
        return asyncio.StreamReaderProtocol(reader, self._took)

    def _took(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.spawn(self._connection(reader, writer))

    def set(self, weather: Weather) -> None:
        """From the next piece on, of connections that are open too."""
        self.weather = weather
        if weather.stall:
            self._moving.clear()
        else:
            self._moving.set()
        if weather.refuse:
            self.listener.refuse(1e9)
        else:
            self.listener.admit()

    def drop(self) -> None:
        """Resets every connection that is open."""
        for writer in list(self._writers):
            _reset(writer)

    async def close(self) -> None:
        self.listener.close()
        self.drop()
        await self.tasks.aclose()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        self.counts["open"] += 1
        self._writers.add(writer)
        try:
            async with asyncio.timeout(_CONNECT_S):
                far_reader, far_writer = await asyncio.open_connection(*self._target, limit=_READ)
        except OSError:  # a timeout is one, too
            self.counts["unreachable"] += 1
            _reset(writer)
        else:
            self._writers.add(far_writer)
            await self._both(reader, writer, far_reader, far_writer)
            self._writers.discard(far_writer)
        finally:
            self._writers.discard(writer)
            self.counts["open"] -= 1

    async def _both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        how: Literal["rst", "fin"] = "rst"
        try:
            async with asyncio.TaskGroup() as group:
                for way, source, sink in (("up", reader, far_writer), ("down", far_reader, writer)):
                    lane = Lane("up" if way == "up" else "down", self._rng)
                    line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_HELD)
                    group.create_task(self._take(lane, source, line))
                    group.create_task(self._give(lane, sink, line))
            how = "fin"
        except* _Broken as broken:
            first = broken.exceptions[0]
            how = first.how if isinstance(first, _Broken) else "rst"
            self.counts["resets" if how == "rst" else "cuts"] += 1
        except* ConnectionError:  # one side broke: the other hears of it
            pass
        for end in (writer, far_writer):
            if how == "rst":
                _reset(end)
            else:
                end.close()

    async def _take(self, lane: Lane, source: asyncio.StreamReader, line: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Reads, and gives each piece its time; an empty piece says that the source has ended."""
        while data := await source.read(_READ):
            weather = lane.here(self.weather)
            for piece in lane.pieces(data, weather):
                await line.put((lane.due(len(piece), self._clock.monotonic(), weather), piece))
        await line.put((lane.due(0, self._clock.monotonic(), lane.here(self.weather)), b""))

    async def _give(self, lane: Lane, sink: asyncio.StreamWriter, line: asyncio.Queue[tuple[float, bytes]]) -> None:
        """Writes each piece when it is due; passes a half-close on."""
        while True:
            due, piece = await line.get()
            if (wait := due - self._clock.monotonic()) > 0:
                await self._clock.sleep(wait)
            if lane.here(self.weather).stall:
                await self._moving.wait()
            if not piece:
                if sink.can_write_eof() and not sink.is_closing():
                    sink.write_eof()
                return
            weather = lane.here(self.weather)
            left = lane.left(weather)
            if left is not None:
                piece = piece[:left]
            sink.write(piece)
            await sink.drain()
            lane.passed += len(piece)
            self.counts[lane.way] += len(piece)
            if left is not None and left <= len(piece):
                await self._flushed(sink)
                raise _Broken("rst" if weather.reset_after is not None else "fin")

    async def _flushed(self, sink: asyncio.StreamWriter) -> None:
        """What was written has left, or five seconds have passed; and a moment more, to be read before a reset."""
        end = self._clock.monotonic() + _FINISH_S
        while sink.transport.get_write_buffer_size() and self._clock.monotonic() < end:
            await self._clock.sleep(0.001)
        await self._clock.sleep(0.02)


def _reset(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is not None and not writer.is_closing():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()


class ProxyControl:
    """The control port of a proxy: GET / shows weather and counts, POST / sets the weather, POST /drop resets all."""

    def __init__(self, proxy: ChaosProxy, clock: Clock) -> None:
        self.clock = clock
        self._proxy = proxy
        self.listener = Listener(lambda: Connection(self), clock, proxy.tasks)

    def refuse(self, seconds: float) -> None:
        self.listener.refuse(seconds)

    def opened(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, *, busy: bool) -> None: ...

    def hello(self, connection: Connection) -> None:
        connection.finish(b"", keep=False)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._proxy.tasks.spawn(work)

    def answer(self, connection: Connection, request: Request) -> None:
        proxy = self._proxy
        try:
            match request.method, request.path:
                case "GET", "/":
                    pass
                case "POST", "/":
                    proxy.set(msgspec.json.decode(request.body, type=Weather))
                case "POST", "/drop":
                    proxy.drop()
                case _:
                    script = refusal("GET /; POST /, /drop", 404, "chat")
                    return connection.finish(script.wire(), keep=request.keep)
            script = plain({"weather": proxy.weather, "counts": proxy.counts})
        except msgspec.DecodeError as error:
            script = refusal(str(error), 400, "chat")
        return connection.finish(script.wire(), keep=request.keep)
