"""The listening socket, which can be taken away for a while: connections are refused then."""

import asyncio
import socket
import ssl
from collections.abc import Callable

from headgate.core.clock import Clock
from headgate.core.tasks import Tasks

_BACKLOG = 4096
_LOOK_S = 0.05
"""Seconds between two looks whether to listen again."""


class Listener:
    """Listens on one address; after `refuse` on the same port again."""

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        clock: Clock,
        tasks: Tasks,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._make = make
        self._clock = clock
        self._tasks = tasks
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._until = 0.0
        self._host = ""
        self.port = 0

    async def open(self, host: str, port: int) -> None:
        """Port 0 takes any free one. Raises `OSError` where the address is taken."""
        taken = socket.create_server((host, port), backlog=_BACKLOG)
        self._host, self.port = host, taken.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._make, sock=taken, backlog=_BACKLOG, ssl=self._tls)

    def refuse(self, seconds: float) -> None:
        """Listens no more, until `seconds` from now; the later end counts where it was away already."""
        self._until = max(self._until, self._clock.monotonic() + seconds)
        if self._server is not None:
            self._server.close()
            self._server = None
            self._tasks.spawn(self._back())

    def admit(self) -> None:
        """Listens again, soon."""
        self._until = 0.0

    async def _back(self) -> None:
        while (left := self._until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, _LOOK_S))
        while self._server is None:
            try:
                await self.open(self._host, self.port)
            except OSError:  # somebody took the port meanwhile
                await self._clock.sleep(0.1)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
