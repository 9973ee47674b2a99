"""Sends requests to one server and hands out exchanges."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence

from headgate.backends.http.address import Origin, Resolver, resolve
from headgate.backends.http.exchange import Connection, Exchange
from headgate.backends.http.framing import HeadLimits, Response
from headgate.backends.http.patience import Patience, timed_out
from headgate.backends.http.pool import Pool, PoolCounts, PoolSettings
from headgate.core.clock import Clock
from headgate.core.deadline import Deadline, Timeouts
from headgate.core.errors import HeadgateError


def tls_context(ca_file: str | None = None, verify: bool = True) -> ssl.SSLContext:
    """Verifies certificates and names unless told otherwise. Raises `OSError` or `ssl.SSLError` for a bad `ca_file`."""
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def check_header(name: str, value: str) -> None:
    """Raises `ValueError` where a header could not be sent as it is, without showing the value."""
    token = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    if not token:
        raise ValueError(f"not a header name: {name!r}")
    if not all(" " <= character <= "~" for character in value):
        raise ValueError(f"the value of header {name!r} must be printable ASCII")


def request_head(origin: Origin, method: str, path: str, headers: Mapping[str, str]) -> bytes:
    """Everything of a request that is the same every time; `HttpClient.send` adds the rest."""
    for name, value in headers.items():
        check_header(name, value)
    lines = [f"{method} {path} HTTP/1.1", f"host: {origin.authority}", "accept-encoding: identity"]
    lines += [f"{name.lower()}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n").encode("ascii")


RESEND_S = 0.5
"""So soon a kept connection shows that it was dead: a round trip. One that is closed later may have been worked on."""


class HttpClient:
    """One server. Redirects are never followed; a stale pooled connection is replaced once, unseen."""

    def __init__(
        self,
        origin: Origin,
        clock: Clock,
        *,
        settings: PoolSettings | None = None,
        tls: ssl.SSLContext | None = None,
        limits: HeadLimits | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        if origin.secure and tls is None:
            tls = tls_context()
        self.origin = origin
        self._clock = clock
        self._limits = limits or HeadLimits()
        self._pool = Pool(origin, settings or PoolSettings(), tls if origin.secure else None, resolver)

    @property
    def counts(self) -> PoolCounts:
        return self._pool.counts

    async def send(
        self,
        head: bytes,
        body: bytes = b"",
        *,
        timeouts: Timeouts,
        deadline: Deadline | None = None,
        extra: Sequence[tuple[bytes, bytes]] = (),
    ) -> Exchange:
        """Sends and returns once the response's head is there. Raises `Upstream`, `UpstreamTimeout` or `Overloaded`."""
        loop = asyncio.get_running_loop()
        seconds = timeouts.total_s
        if deadline is not None:
            seconds = min(seconds, deadline.remaining(self._clock))
        end = loop.time() + seconds
        lines = b"".join([b"%b: %b\r\n" % header for header in extra])
        data = b"%b%bcontent-length: %d\r\n\r\n%b" % (head, lines, len(body), body)
        for attempt in (0, 1):
            connection = await self._connection(timeouts.connect_s, (end, seconds), fresh=attempt == 1)
            reused = connection.idle_since > 0
            exchange = Exchange(Response(self._limits), self._pool.ended)
            phases = (timeouts.first_token_s, timeouts.between_tokens_s)
            sent = loop.time()
            exchange.begin(connection, data, Patience(loop, phases, (end, seconds), exchange.expired))
            try:
                await exchange.head()
            except HeadgateError:
                if exchange.untouched and reused and attempt == 0 and loop.time() - sent < RESEND_S:
                    continue  # it had been closed while it lay idle: the request was never read
                raise
            return exchange
        raise AssertionError("unreachable")

    async def _connection(self, connect_s: float, total: tuple[float, float], *, fresh: bool) -> Connection:
        end, seconds = total
        loop = asyncio.get_running_loop()
        if loop.time() >= end:
            raise timed_out("total", seconds)
        if not self._pool.slot_now():
            await self._slot(total)
        try:
            connection = None if fresh else self._pool.take_idle()
            if connection is None:
                connection = await self._pool.connect(max(0.0, min(connect_s, end - loop.time())))
        except BaseException:
            self._pool.give_slot()
            raise
        return connection

    async def _slot(self, total: tuple[float, float]) -> None:
        end, seconds = total
        try:
            async with asyncio.timeout_at(end):
                await self._pool.slot()
        except TimeoutError as error:
            raise timed_out("total", seconds) from error

    def close(self) -> None:
        """Closes idle connections and refuses new calls; calls under way end by themselves."""
        self._pool.close()
