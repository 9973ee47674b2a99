"""Opens the store of streams that a setting names."""

from headgate.core.clock import Clock
from headgate.core.streams import StreamSettings, StreamStore
from headgate.storage.errors import StorageError
from headgate.storage.streams.memory import MemoryStreams


def open_streams(url: str, settings: StreamSettings, clock: Clock) -> StreamStore:
    """`memory`, or `redis://[user:password@]host:port[/db]` (`rediss://` for TLS, `unix://` for a socket).

    Connects on first use. Raises `StorageError` for any other URL, or where the Redis client is not installed.
    """
    if url == "memory":
        return MemoryStreams(settings, clock)
    if url.partition("://")[0] not in {"redis", "rediss", "unix"}:
        raise StorageError(
            f"storage.counters: '{url.partition('://')[0]}' is not known; use memory or redis://host:port/0"
        )
    try:
        # Here and not above: the client is an extra, and whoever keeps streams in memory need not have it.
        from headgate.storage.streams.redis import RedisStreams
    except ModuleNotFoundError as error:
        raise StorageError(
            "storage.counters: the Redis client is not installed; run: pip install 'headgate[redis]'"
        ) from error
    return RedisStreams.at(url, settings, clock)
