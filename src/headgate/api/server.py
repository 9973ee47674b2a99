"""Listens, and stops in order. Signals belong to `app`; logging of requests to the pipeline."""

import asyncio
import socket

from uvicorn.config import Config
from uvicorn.server import ServerState

from headgate.api.asgi import AsgiApplication
from headgate.api.connection import Connection, Refusal
from headgate.api.http import Handler
from headgate.api.settings import ServerSettings

BACKLOG = 2048
LAST_WORDS_SECONDS = 0.5
"""For calls cancelled at the end of the grace time to tell their callers."""
QUIET_SECONDS = 0.25
"""A request already on its way when the server stops accepting may arrive on an idle connection until then."""


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet; port 0 takes a free one. Raises `OSError`."""
    family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
        0
    ]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class Server:
    """HTTP/1.1 on one socket of the running event loop. Start once, stop once."""

    def __init__(self, handler: Handler, refusal: Refusal, settings: ServerSettings) -> None:
        self._settings = settings
        self._refusal = refusal
        self._config = Config(
            AsgiApplication(handler),
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=max(1, int(settings.idle_s)),
        )
        self._state = ServerState()
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._checking: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._state.connections)

    @property
    def calls(self) -> int:
        """Requests being handled."""
        return len(self._state.tasks)

    async def start(self, sock: socket.socket | None = None) -> int:
        """Listens on `sock` (bound) or on the address of the settings; gives the port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        self._config.load()
        sock = sock or bind(self._settings.host, self._settings.port)
        self._listener = await loop.create_server(self._accept, sock=sock, backlog=BACKLOG)
        self._socket = sock
        self._check()
        port: int = sock.getsockname()[1]
        return port

    def _accept(self) -> Connection:
        return Connection(self._config, self._state, self._settings, self._refusal, self._closed)

    def _closed(self) -> None:
        if not self._state.connections:
            self._empty.set()

    def _check(self) -> None:
        """Once a second, or oftener where a limit is short: looks for clients that are too slow."""
        loop, limits = asyncio.get_running_loop(), self._settings
        now = loop.time()
        for connection in self._each():
            connection.check(now)
        every = min(1.0, min(limits.head_s, limits.body_window_s, limits.send_s, limits.linger_s) / 4)
        self._checking = loop.call_later(every, self._check)

    def _each(self) -> list[Connection]:
        return [connection for connection in self._state.connections if isinstance(connection, Connection)]

    async def stop(self, grace_s: float | None = None) -> None:
        """Stops accepting; lets accepted requests end within the grace time; cancels the rest; closes."""
        if self._listener is None or self._socket is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + (self._settings.grace_s if grace_s is None else grace_s)
        waiting = self._waiting(self._socket)
        self._listener.close()  # in the same breath: whoever connects from now on is refused, not put in the queue
        for peer in waiting:
            await loop.connect_accepted_socket(self._accept, peer)
        for connection in self._each():
            connection.drain()
        await self._emptied(min(QUIET_SECONDS, end - loop.time()))
        for connection in self._each():
            if connection.idle:
                connection.leave()
        await self._emptied(end - loop.time())
        for connection in self._each():
            connection.cancel()
        await self._emptied(LAST_WORDS_SECONDS)
        for connection in self._each():
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=LAST_WORDS_SECONDS)
        if self._checking is not None:
            self._checking.cancel()
        self._listener = None

    def _waiting(self, sock: socket.socket) -> list[socket.socket]:
        """Who has connected already: the kernel resets those still in its queue when listening ends."""
        found = []
        for _ in range(BACKLOG):
            try:
                peer, _address = sock.accept()
            except OSError:
                break
            peer.setblocking(False)
            found.append(peer)
        return found

    async def _emptied(self, seconds: float) -> None:
        """Waits until no connection is left, or so long."""
        self._empty.clear()
        if self._state.connections:
            try:
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
            except TimeoutError:
                return
