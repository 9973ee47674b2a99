"""Streams that replicas share, in Redis or Valkey (6.2 or later): one server or a primary with replicas, not a cluster.

A frame is an entry of a Redis stream whose id is its number, so that nothing can be in it twice; the entry after the
last one says that it was the last. Beside it stand what readers are told of the stream, the lease of its writer, and
a note that somebody follows it. All of them expire by themselves.
"""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import RedisError, ResponseError

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.streams import READ_FRAMES, Gone, Page, StreamSettings
from headgate.storage.redis_pool import connection_pool
from headgate.storage.streams.rest import REST_S_MAX, Rest

TIMEOUT_S = 1.0
"""For a whole method: a place in the pool, connecting, the round trip. Waiting for frames comes on top."""
CONNECTIONS = 16
WAITING = 64
"""Readers that wait in Redis at once, each on a connection of its own; more of them look every `POLL_S` instead."""
POLL_S = 0.1
LOOKS_PER_S = 400
"""What they look together, at most: the more of them, the more rarely each."""
BEATS = 500
"""Leases extended in one round trip."""
AGAIN_S = 0.25
"""How soon leases are extended that could not be."""
PREFIX = "headgate:"
_FRAME, _END = b"f", b"e"

T = TypeVar("T")


class _Open:
    """A stream that this process writes: what of it is in Redis."""

    def __init__(self, about: bytes) -> None:
        self.about = about
        self.count = 0
        self.sizes: deque[int] = deque()
        self.held = 0


class RedisStreams:
    """`core.streams.StreamStore` on a server."""

    def __init__(
        self, client: Redis, waiting: Redis, settings: StreamSettings, clock: Clock, timeout_s: float, prefix: str
    ) -> None:
        self._client = client
        self._waiting = waiting
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._wait: Callable[..., Awaitable[Any]] = waiting.execute_command
        self._settings = settings
        self._clock = clock
        self._timeout_s = timeout_s
        self._prefix = prefix
        self._limit = int(settings.stream_mb * 1024 * 1024)
        self._lease_ms = math.ceil(settings.lease_s * 1000)
        self._keep_ms = math.ceil(settings.keep_s * 1000)
        self._open_ms = self._keep_ms + 2 * self._lease_ms
        """Longer than the lease: readers shall learn that the writer is gone."""
        self._open: dict[str, _Open] = {}
        self._places = WAITING
        self._looking = 0
        self._rest = Rest(min(REST_S_MAX, settings.lease_s / 2))  # leases must be taken again before readers give up

    @classmethod
    def at(
        cls, url: str, settings: StreamSettings, clock: Clock, timeout_s: float = TIMEOUT_S, prefix: str = PREFIX
    ) -> "RedisStreams":
        """Connects on first use. Raises `StorageError` for a URL the client does not understand."""
        writing = Redis.from_pool(connection_pool(url, CONNECTIONS, timeout_s))
        waiting = Redis.from_pool(connection_pool(url, WAITING, timeout_s, 60.0))
        return cls(writing, waiting, settings, clock, timeout_s, prefix)

    @property
    def kept(self) -> int:
        return len(self._open)

    @property
    def held(self) -> int:
        """Frames are handed on: Redis holds them."""
        return 0

    async def begin(self, key: str, about: bytes) -> None:
        self._open.setdefault(key, _Open(about))
        async with self._pipeline() as pipe:
            self._refresh(pipe, key)
            await self._send(pipe)

    async def append(self, key: str, first: int, frames: Sequence[bytes]) -> None:
        stream = self._open.get(key)
        if stream is None:
            return
        async with self._pipeline(True) as pipe:  # at once: without its end of life an entry would stay for ever
            for number, frame in enumerate(frames, first):
                self._add(pipe, key, number, _FRAME, frame)
            cut = self._count(stream, first, frames)
            if cut is not None:
                pipe.execute_command("XTRIM", self._key("s", key), "MINID", f"{cut}-0")
            self._refresh(pipe, key)
            await self._send(pipe)

    async def end(self, key: str, last: int) -> None:
        if key not in self._open:
            return
        async with self._pipeline(True) as pipe:
            self._add(pipe, key, last + 1, _END, b"")
            pipe.execute_command("PEXPIRE", self._key("s", key), self._keep_ms)
            pipe.execute_command("PEXPIRE", self._key("a", key), self._keep_ms)
            pipe.execute_command("DEL", self._key("l", key))
            await self._send(pipe)
        self._open.pop(key, None)

    async def find(self, key: str) -> bytes | None:
        found: bytes | None = await self._bounded(self._execute("GET", self._key("a", key)))
        return found

    async def read(self, key: str, after: int, wait_s: float) -> Page:
        page = await self._now(key, after)
        if page.frames or page.end or page.lost or wait_s <= 0:
            return page
        if not self._places:
            self._looking += 1
            try:
                await self._clock.sleep(min(max(POLL_S, self._looking / LOOKS_PER_S), wait_s))
            finally:
                self._looking -= 1
            return page
        self._places -= 1
        try:
            stream = self._key("s", key)
            command = self._wait(
                "XREAD", "COUNT", READ_FRAMES, "BLOCK", math.ceil(wait_s * 1000), "STREAMS", stream, f"{after}-0"
            )
            return _page(await self._bounded(command, wait_s), after)
        finally:
            self._places += 1

    async def _now(self, key: str, after: int) -> Page:
        """All of it at one moment: what there is, whether it has ended, whether its writer lives."""
        stream = self._key("s", key)
        async with self._pipeline(True) as pipe:
            pipe.execute_command("SET", self._key("f", key), b"1", "PX", math.ceil(self._settings.grace_s * 1000))
            pipe.execute_command("XREAD", "COUNT", READ_FRAMES, "STREAMS", stream, f"{after}-0")
            pipe.execute_command("EXISTS", self._key("a", key))
            pipe.execute_command("EXISTS", self._key("l", key))
            pipe.execute_command("XREVRANGE", stream, "+", "-", "COUNT", 1)
            _, found, known, leased, newest = await self._send(pipe)
        if not known:
            raise Gone
        page = _page(found, after)
        if page.frames or page.end:
            return page
        if newest and _END in newest[0][1]:
            raise Gone  # it ended before what the reader says to have
        return Page(lost=not leased)

    async def followed(self, key: str) -> float:
        left = int(await self._bounded(self._execute("PTTL", self._key("f", key))))
        return max(0, left) / 1000

    async def forget(self, key: str) -> None:
        self._open.pop(key, None)
        await self._bounded(self._execute("DEL", *(self._key(kind, key) for kind in "salf")))

    async def run(self) -> None:
        """Extends the leases of all streams in progress, many in one round trip."""
        pause = often = self._settings.lease_s / 3
        while True:
            await self._clock.sleep(pause)
            pause = often
            keys = iter(list(self._open))
            while some := list(islice(keys, BEATS)):
                try:
                    async with self._pipeline() as pipe:
                        for key in some:
                            if key in self._open:
                                self._refresh(pipe, key)
                        await self._send(pipe)
                except Overloaded:
                    pause = min(often, AGAIN_S)  # leases lapse, and are taken again when Redis is back
                    break

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._waiting.aclose()

    def _key(self, kind: str, key: str) -> str:
        return f"{self._prefix}stream:{kind}:{key}"

    def _pipeline(self, transaction: bool = False) -> Pipeline:
        return self._client.pipeline(transaction=transaction)

    def _add(self, pipe: Pipeline, key: str, number: int, field: bytes, value: bytes) -> None:
        pipe.execute_command("XADD", self._key("s", key), f"{number}-0", field, value)

    def _refresh(self, pipe: Pipeline, key: str) -> None:
        """What stands beside a stream is written anew each time: a Redis that was restarted may know nothing."""
        pipe.execute_command("SET", self._key("a", key), self._open[key].about, "PX", self._open_ms)
        pipe.execute_command("SET", self._key("l", key), b"1", "PX", self._lease_ms)
        pipe.execute_command("PEXPIRE", self._key("s", key), self._open_ms)

    def _count(self, stream: _Open, first: int, frames: Sequence[bytes]) -> int | None:
        """Keeps the books of a stream's bytes; the number below which all is too much, where there is such a one."""
        for frame in frames[max(0, stream.count + 1 - first) :]:
            stream.sizes.append(len(frame))
            stream.held += len(frame)
            stream.count += 1
        cut = stream.held > self._limit
        while stream.held > self._limit:
            stream.held -= stream.sizes.popleft()
        return stream.count - len(stream.sizes) + 1 if cut else None

    async def _send(self, pipe: Pipeline) -> list[Any]:
        """What each command gave. An entry that is there already is as good as added."""
        answers = await self._bounded(pipe.execute(raise_on_error=False))
        for answer in answers:
            if isinstance(answer, RedisError) and not _there_already(answer):
                raise _unavailable(answer) from answer
        return answers

    async def _bounded(self, command: Awaitable[T], wait_s: float = 0.0) -> T:
        clock, task = self._clock, asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        if not self._rest.admits(clock.monotonic()):
            _unused(command)
            raise Overloaded(
                "The store of streams is away; try again shortly.", code="streams_unavailable", retry_after=1.0
            )
        try:
            async with asyncio.timeout(self._timeout_s + wait_s):
                answer = await command
        except TimeoutError as error:
            self._rest.failed(clock.monotonic())
            raise Overloaded(
                f"The store of streams did not answer within {self._timeout_s:g} s; try again shortly.",
                code="streams_unavailable",
                retry_after=1.0,
            ) from error
        except (RedisError, OSError) as error:
            self._rest.failed(clock.monotonic())
            raise _unavailable(error) from error
        self._rest.answered()
        if task is not None and task.cancelling() > cancelled:
            raise asyncio.CancelledError  # the client may answer all the same: then nobody would ever stop
        return answer


def _unused(command: Awaitable[Any]) -> None:
    close: Callable[[], None] | None = getattr(command, "close", None)
    if close is not None:
        close()


def _there_already(error: RedisError) -> bool:
    return isinstance(error, ResponseError) and "equal or smaller" in str(error)


def _unavailable(error: Exception) -> Overloaded:
    return Overloaded(
        f"The store of streams cannot be used ({str(error)[:200]}); try again shortly.",
        code="streams_unavailable",
        retry_after=1.0,
    )


def _page(answer: Any, after: int) -> Page:
    """Of what XREAD gave. Raises `Gone` where what comes after `after` is no longer there."""
    if not answer:
        return Page()
    streams = list(answer.values()) if isinstance(answer, dict) else [entries for _, entries in answer]
    entries = streams[0]
    if entries and isinstance(entries[0], list) and entries[0] and not isinstance(entries[0][0], bytes):
        entries = entries[0]  # the third version of the protocol nests them once more
    frames: list[bytes] = []
    for number, (name, fields) in enumerate(entries, after + 1):
        if int(name.partition(b"-")[0]) != number:
            raise Gone
        if _END in fields:
            return Page(frames, end=True)
        frames.append(fields[_FRAME])
    return Page(frames)
