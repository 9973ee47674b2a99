"""Opens the store of streams that a setting names."""

from headgate.core.clock import Clock
from headgate.core.streams import StreamSettings, StreamStore
from headgate.storage.redis_url import client_needed, is_redis
from headgate.storage.streams.memory import MemoryStreams


def open_streams(url: str, settings: StreamSettings, clock: Clock) -> StreamStore:
    """Connects on first use. Raises `StorageError` for any other URL than `redis_url` knows, or without its client."""
    if not is_redis(url):
        return MemoryStreams(settings, clock)
    with client_needed():
        from headgate.storage.streams.redis import RedisStreams
    return RedisStreams.at(url, settings, clock)
