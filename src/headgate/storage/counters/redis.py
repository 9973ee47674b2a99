"""Counters that replicas share, in Redis or Valkey: one server or a primary with replicas, not a cluster.

The server should not evict (`maxmemory-policy noeviction`): a limit that is evicted is a limit forgotten.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError, ResponseError

from headgate.core.counters import check_ttl, check_value
from headgate.core.errors import Overloaded
from headgate.storage.counters import scripts
from headgate.storage.redis_pool import connection_pool

TIMEOUT_S = 1.0
"""For a whole method: a place in the pool, connecting, the round trip."""
CONNECTIONS = 32
PREFIX = "headgate:"


class RedisCounters:
    """`core.counters.Counters` on a server. A call whose answer was lost is not repeated: it could count twice."""

    def __init__(self, client: Redis, timeout_s: float, prefix: str) -> None:
        self._client = client
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        self._timeout_s = timeout_s
        self._prefix = prefix

    @classmethod
    def at(cls, url: str, timeout_s: float = TIMEOUT_S, prefix: str = PREFIX) -> "RedisCounters":
        """Connects on first use. Raises `StorageError` for a URL the client does not understand."""
        pool = connection_pool(url, CONNECTIONS, timeout_s)
        return cls(Redis.from_pool(pool), timeout_s, prefix)

    async def acquire(self, key: str, holder: str, limit: int, ttl_s: float) -> bool:
        check_ttl(ttl_s)
        return bool(await self._run(scripts.ACQUIRE, [f"l:{key}"], [holder, limit, _milliseconds(ttl_s)]))

    async def release(self, key: str, holder: str) -> bool:
        return bool(await self._run(scripts.RELEASE, [f"l:{key}"], [holder]))

    async def count(self, key: str) -> int:
        return int(await self._run(scripts.COUNT, [f"l:{key}"], []))

    async def get(self, key: str) -> bytes | None:
        value: bytes | None = await self._bounded(self._execute("GET", self._value(key)))
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        check_value(value)
        check_ttl(ttl_s)
        command = self._execute("SET", self._value(key), value, "PX", _milliseconds(ttl_s))
        await self._bounded(command)

    async def delete(self, key: str) -> bool:
        return bool(await self._bounded(self._execute("DEL", self._value(key))))

    async def incr(self, key: str, by: int, ttl_s: float) -> int:
        check_ttl(ttl_s)
        try:
            return int(await self._run(scripts.INCR, [f"v:{key}"], [by, _milliseconds(ttl_s)]))
        except Overloaded as error:
            if isinstance(error.__cause__, ResponseError) and "integer" in str(error.__cause__):
                raise ValueError(f"counter {key!r} is no whole number of 64 bits") from error
            if isinstance(error.__cause__, ResponseError) and "overflow" in str(error.__cause__):
                raise ValueError(f"counter {key!r} would exceed 64 bits") from error
            raise

    async def ping(self) -> None:
        await self._bounded(self._execute("PING"))

    async def aclose(self) -> None:
        await self._client.aclose()

    def _value(self, key: str) -> str:
        return f"{self._prefix}v:{key}"

    async def _run(self, script: scripts.Script, keys: list[str], arguments: list[Any]) -> Any:
        return await self._bounded(self._evaluate(script, [self._prefix + key for key in keys] + arguments, len(keys)))

    async def _evaluate(self, script: scripts.Script, arguments: list[Any], keys: int) -> Any:
        try:
            return await self._execute("EVALSHA", script.sha, keys, *arguments)
        except NoScriptError:  # a server that was restarted, or failed over; nothing ran
            return await self._execute("EVAL", script.text, keys, *arguments)

    async def _bounded(self, command: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await command
        except TimeoutError as error:
            raise Overloaded(
                f"The counter store did not answer within {self._timeout_s:g} s; try again shortly.",
                code="counters_unavailable",
                retry_after=1.0,
            ) from error
        except (RedisError, OSError) as error:
            raise Overloaded(
                f"The counter store cannot be used ({str(error)[:200]}); try again shortly.",
                code="counters_unavailable",
                retry_after=1.0,
            ) from error


def _milliseconds(seconds: float) -> int:
    return math.ceil(seconds * 1000)
