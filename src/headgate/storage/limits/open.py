"""Opens the limits that a setting names."""

from headgate.core.clock import Clock
from headgate.core.limiter import Limiter
from headgate.storage.errors import StorageError
from headgate.storage.limits.memory import MemoryLimiter


def open_limiter(url: str, clock: Clock) -> Limiter:
    """`memory`, or `redis://[user:password@]host:port[/db]` (`rediss://` for TLS, `unix://` for a socket).

    Connects on first use. Raises `StorageError` for any other URL, or where the Redis client is not installed.
    """
    if url == "memory":
        return MemoryLimiter(clock)
    if url.partition("://")[0] not in {"redis", "rediss", "unix"}:
        raise StorageError(
            f"storage.counters: '{url.partition('://')[0]}' is not known; use memory or redis://host:port/0"
        )
    try:
        # Here and not above: the client is an extra, and whoever counts in memory need not have it.
        from headgate.storage.limits.redis import RedisLimiter
    except ModuleNotFoundError as error:
        raise StorageError(
            "storage.counters: the Redis client is not installed; run: pip install 'headgate[redis]'"
        ) from error
    return RedisLimiter.at(url, clock)
