"""Opens the counters that a setting names."""

from headgate.core.clock import Clock
from headgate.core.counters import Counters
from headgate.storage.counters.memory import MemoryCounters
from headgate.storage.redis_url import client_needed, is_redis


def open_counters(url: str, clock: Clock) -> Counters:
    """Connects on first use. Raises `StorageError` for any other URL than `redis_url` knows, or without its client."""
    if not is_redis(url):
        return MemoryCounters(clock)
    with client_needed():
        from headgate.storage.counters.redis import RedisCounters
    return RedisCounters.at(url)
