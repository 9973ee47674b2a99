"""Opens the limits that a setting names."""

from headgate.core.clock import Clock
from headgate.core.limiter import Limiter
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.redis_url import client_needed, is_redis


def open_limiter(url: str, clock: Clock) -> Limiter:
    """Connects on first use. Raises `StorageError` for any other URL than `redis_url` knows, or without its client."""
    if not is_redis(url):
        return MemoryLimiter(clock)
    with client_needed():
        from headgate.storage.limits.redis import RedisLimiter
    return RedisLimiter.at(url, clock)
