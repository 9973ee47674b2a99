"""Opens the counters that a setting names."""

from headgate.core.clock import Clock
from headgate.core.counters import Counters
from headgate.storage.counters.memory import MemoryCounters
from headgate.storage.errors import StorageError


def open_counters(url: str, clock: Clock) -> Counters:
    """`memory`, or `redis://[user:password@]host:port[/db]` (`rediss://` for TLS, `unix://` for a socket).

    Connects on first use. Raises `StorageError` for any other URL, or where the Redis client is not installed.
    """
    if url == "memory":
        return MemoryCounters(clock)
    if url.partition("://")[0] not in {"redis", "rediss", "unix"}:
        raise StorageError(
            f"storage.counters: '{url.partition('://')[0]}' is not known; use memory or redis://host:port/0"
        )
    try:
        # Here and not above: the client is an extra, and whoever counts in memory need not have it.
        from headgate.storage.counters.redis import RedisCounters
    except ModuleNotFoundError as error:
        raise StorageError(
            "storage.counters: the Redis client is not installed; run: pip install 'headgate[redis]'"
        ) from error
    return RedisCounters.at(url)
