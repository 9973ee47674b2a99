"""Opens the limits that a setting names."""

from headgate.core.clock import Clock
from headgate.core.limiter import Limiter
from headgate.storage.errors import StorageError
from headgate.storage.limits.memory import MemoryLimiter


def open_limiter(url: str, clock: Clock) -> Limiter:
    """`memory`: limits of this process alone. Raises `StorageError` for any other URL."""
    if url == "memory":
        return MemoryLimiter(clock)
    raise StorageError(f"storage.counters: '{url.partition('://')[0]}' is not known; use memory or redis://host:port/0")
