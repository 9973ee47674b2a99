"""From a reply to the client: frames as they come, comment lines while nothing comes, memory bounded by the sink."""

import asyncio
from typing import Protocol

from headgate.api.wire.encoding import Encoder, Fold
from headgate.core.errors import Bug
from headgate.core.events import Finish, Stream
from headgate.core.usage import Usage

PING = b": ping\n\n"
BURST = 32
"""Items of one stream in a row, before everybody else's turn: a stream that never waits must not hold the loop."""


class Pen(Protocol):
    """What an answer is written with: the sink of a connection, or a recording."""

    async def write(self, data: bytes) -> None: ...

    def nudge(self, data: bytes) -> None:
        """Writes `data` if that needs no waiting, else drops it."""


class Heartbeat:
    """A timer that writes a comment line where nothing was written for `every` seconds. Never inside a frame."""

    __slots__ = ("_every", "_loop", "_sink", "_timer", "last")

    def __init__(self, sink: Pen, every: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._sink = sink
        self._every = every
        self.last = self._loop.time()
        """When something was written last."""
        self._timer = self._loop.call_at(self.last + every, self._beat)

    def _beat(self) -> None:
        now = self._loop.time()
        if now - self.last >= self._every:
            self._sink.nudge(PING)
            self.last = now
        self._timer = self._loop.call_at(self.last + self._every, self._beat)

    def wrote(self) -> None:
        """Something was written."""
        self.last = self._loop.time()

    def stop(self) -> None:
        self._timer.cancel()


async def relay(stream: Stream, encoder: Encoder, sink: Pen, heartbeat_s: float) -> bytes:
    """Passes a stream on, one write per item. Gives the last frame, for after the reply is closed.

    Raises what the stream raises. Items that are frames already pass untouched, and the events beside them are not
    rendered.
    """
    heart = Heartbeat(sink, heartbeat_s)
    raw = False
    row = 0
    try:
        async for item in stream:
            if isinstance(item, bytes):
                raw = True
                data = item
            elif raw and isinstance(item, Usage | Finish):
                continue
            else:
                data = encoder.frames(item)
            if data:
                await sink.write(data)
                heart.wrote()
            row += 1
            if row == BURST:
                row = 0
                await asyncio.sleep(0)
    finally:
        heart.stop()
    return encoder.tail(raw)


async def fold(stream: Stream, into: Fold) -> bytes:
    """One whole body from a stream of events. Raises what the stream raises."""
    row = 0
    async for item in stream:
        if isinstance(item, bytes):
            raise Bug("The model server streamed where a whole answer was asked for.")
        into.take(item)
        row += 1
        if row == BURST:
            row = 0
            await asyncio.sleep(0)
    return into.body()
