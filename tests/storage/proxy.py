"""A TCP proxy with faults, between a client under test and a real server."""

import asyncio
from typing import Literal

Fault = Literal["none", "drop", "stall", "cut", "corrupt"]


class Proxy:
    """Listens on 127.0.0.1 and forwards to `port`. The fault in force counts for every piece of every connection.

    `drop` ends connections, old and new, at once. `stall` forwards nothing until there is another fault, or none.
    `cut` forwards half of each reply, then ends the connection. `corrupt` turns every bit of each reply.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self.fault: Fault = "none"
        self.delay_s = 0.0
        """Added to each piece, each way."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._server is not None
        self._server.close()
        self._flowing.set()
        for writer in self._writers:
            writer.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        await self._server.wait_closed()

    def set(self, fault: Fault, delay_s: float = 0.0) -> None:
        self.fault, self.delay_s = fault, delay_s
        if fault == "stall":
            self._flowing.clear()
        else:
            self._flowing.set()
        if fault == "drop":
            for writer in list(self._writers):
                writer.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault == "drop":
            writer.close()
            return
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers |= {writer, forth}
        for source, target, reply in ((reader, forth, False), (back, writer, True)):
            pipe = asyncio.get_running_loop().create_task(self._pipe(source, target, reply))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, reply: bool) -> None:
        try:
            while piece := await source.read(65536):
                await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                if reply and self.fault == "cut":
                    target.write(piece[: len(piece) // 2])
                    await target.drain()
                    break
                if reply and self.fault == "corrupt":
                    piece = bytes(byte ^ 0xFF for byte in piece)
                target.write(piece)
                await target.drain()
        except OSError:
            pass
        finally:
            self._writers.discard(target)
            target.close()
