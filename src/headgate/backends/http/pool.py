"""The connections to one server: how many, who waits for one, which are idle, and how a new one is made."""

import asyncio
import ssl
from collections import deque
from functools import partial

from msgspec import Struct

from headgate.backends.http.address import Origin, Resolver, is_refused, resolve
from headgate.backends.http.exchange import Connection
from headgate.backends.http.patience import timed_out
from headgate.core.errors import Overloaded, Upstream


class PoolSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of one server's pool."""

    max_connections: int = 1_000
    max_waiting: int = 1_000
    """Calls that may wait for a connection; more are refused at once."""
    wait_s: float = 10.0
    idle_s: float = 30.0
    """An idle connection older than this is closed, not used."""
    allow_link_local: bool = False
    """Permits link-local and metadata addresses, for a server that really lives on one."""


class PoolCounts(Struct, frozen=True):
    """Connections in use or being made, idle ones, and calls waiting for one."""

    active: int
    idle: int
    waiting: int


class Pool:
    """Hands out slots, then connections: newest idle first, so that the pool shrinks by itself when load falls."""

    def __init__(
        self, origin: Origin, settings: PoolSettings, tls: ssl.SSLContext | None, resolver: Resolver = resolve
    ) -> None:
        self._origin = origin
        self._settings = settings
        self._tls = tls
        self._resolve = resolver
        self._idle: deque[Connection] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._active = 0
        self._busy: set[Connection] = set()
        self._reaper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def counts(self) -> PoolCounts:
        return PoolCounts(self._active, len(self._idle), len(self._waiters))

    def slot_now(self) -> bool:
        """Takes the right to one connection if one is free and nobody waits."""
        if self._closed:
            raise Upstream("this model server is being removed", code="upstream_closed")
        if self._active >= self._settings.max_connections or self._waiters:
            return False
        self._active += 1
        return True

    async def slot(self) -> None:
        """Waits for the right to one connection. Raises `Overloaded` if too many wait, or the wait is too long."""
        if self.slot_now():
            return
        if len(self._waiters) >= self._settings.max_waiting:
            raise Overloaded("too many calls wait for this model server", code="upstream_pool_full", retry_after=1.0)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._settings.wait_s):
                await waiter
        except (TimeoutError, asyncio.CancelledError) as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.give_slot()  # it came in the same moment: pass it on
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    "no connection to this model server became free in time", code="upstream_pool_wait", retry_after=1.0
                ) from None
            raise

    def give_slot(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self._active -= 1

    def take_idle(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since <= self._settings.idle_s and connection.is_quiet():
                self._busy.add(connection)
                return connection
            connection.transport.abort()
        return None

    def ended(self, connection: Connection, reusable: bool) -> None:
        """An exchange gives back its connection, and its slot with it."""
        self._busy.discard(connection)
        if reusable and not self._closed:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            self._idle.append(connection)
            if self._reaper is None:
                self._reaper = loop.call_later(self._settings.idle_s, self._reap)
        else:
            connection.transport.abort()
        self.give_slot()

    async def connect(self, seconds: float) -> Connection:
        """A new connection, over the first address that accepts it. Raises `Upstream` or `UpstreamTimeout`."""
        while self._idle and self._active + len(self._idle) > self._settings.max_connections:
            self._idle.popleft().transport.abort()
        try:
            async with asyncio.timeout(seconds):
                connection = await self._connect_any(seconds)
        except TimeoutError as error:
            raise timed_out("connect", seconds) from error
        self._busy.add(connection)
        return connection

    async def _connect_any(self, seconds: float) -> Connection:
        host, port = self._origin.host, self._origin.port
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise Upstream("the model server's name could not be resolved", code="upstream_unreachable") from error
        allowed = [address for address in addresses if self._settings.allow_link_local or not is_refused(address)]
        if not allowed:
            raise Upstream("the model server's address is not allowed", code="upstream_address_refused")
        failure: OSError | None = None
        for position, address in enumerate(allowed):
            last = position == len(allowed) - 1
            try:
                async with asyncio.timeout(None if last else seconds / len(allowed)):
                    return await self._connect(address, port)
            except ssl.SSLError as error:
                raise Upstream("the model server's TLS could not be verified", code="upstream_tls") from error
            except OSError as error:  # also the end of this address's share of the time
                failure = error
        raise Upstream("the model server could not be reached", code="upstream_unreachable") from failure

    async def _connect(self, address: str, port: int) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            partial(Connection, self._lost),
            address,
            port,
            ssl=self._tls,
            server_hostname=self._origin.host if self._tls is not None else None,
        )
        return connection

    def _lost(self, connection: Connection) -> None:
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def _reap(self) -> None:
        loop = asyncio.get_running_loop()
        self._reaper = None
        now = loop.time()
        while self._idle and now - self._idle[0].idle_since >= self._settings.idle_s:
            self._idle.popleft().transport.abort()
        if self._idle:
            due = self._idle[0].idle_since + self._settings.idle_s
            self._reaper = loop.call_at(due, self._reap)

    def close(self) -> None:
        """Closes what is idle or has only leftovers to come; what is in use closes when it ends. No new slots."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None
        while self._idle:
            self._idle.popleft().transport.abort()
        for connection in list(self._busy):
            if connection.exchange is not None and connection.exchange.draining:
                connection.exchange.abort()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(Upstream("this model server is being removed", code="upstream_closed"))
