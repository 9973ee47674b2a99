"""A TCP proxy in front of Redis that loses what it is told to lose."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

Fate = Literal["before", "after", "late"]
"""The connection is cut before the server heard of the script; after it ran, before its answer; or before it, and the
server hears of it only on `deliver`."""


class Proxy:
    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.fates: deque[Fate | None] = deque()
        """Of the next scripts, in order; None lets one pass."""
        self.stands_still = False
        """The connection of the next script does, from then on; others do not."""
        self.scripts = 0
        self._late: list[bytes] = []
        self._port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}{self._target.path}"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()

    async def deliver(self) -> None:
        """What was late arrives now, from a connection that nobody reads any more."""
        for request in self._late:
            reader, writer = await self._connect()
            database = self._target.path.strip("/") or "0"
            for command in (b"*2\r\n$6\r\nSELECT\r\n$%d\r\n%s\r\n" % (len(database), database.encode()), request):
                writer.write(command)
                await reader.read(65536)
            writer.close()
        self._late.clear()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self._target.hostname, self._target.port)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            up_reader, up_writer = await self._connect()
            try:
                while request := await reader.read(1 << 20):
                    fate = None
                    if b"EVAL" in request:
                        self.scripts += 1
                        fate = self.fates.popleft() if self.fates else None
                        if self.stands_still:
                            self.stands_still = False
                            with contextlib.suppress(asyncio.CancelledError):  # at the end of the test
                                await asyncio.Event().wait()
                            break
                    if fate == "late":
                        self._late.append(request)
                    if fate in {"before", "late"}:
                        break
                    up_writer.write(request)
                    answer = await up_reader.read(1 << 20)
                    if fate == "after":
                        break
                    writer.write(answer)
            finally:
                up_writer.close()
                writer.close()
