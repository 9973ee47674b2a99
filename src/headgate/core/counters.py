"""The counters port: places and small values that all replicas share.

Here rather than in `storage`, because the request path is handed the port and never imports a driver.
"""

from typing import Protocol

VALUE_BYTES_MAX = 64 * 1024


class Counters(Protocol):
    """Shared counters. Each method is atomic, bounded by the driver's timeout, and raises `core.errors.Overloaded`
    where the store cannot be reached or is full. Places and values have separate names.
    """

    async def acquire(self, key: str, holder: str, limit: int, ttl_s: float) -> bool:
        """Takes one of `limit` places of `key` for `ttl_s` seconds; False where all are taken.

        The same holder again keeps its place and extends it. A place whose holder dies frees itself.
        """
        ...

    async def release(self, key: str, holder: str) -> bool:
        """Gives the holder's place back; False where it had none (any more)."""
        ...

    async def count(self, key: str) -> int:
        """How many places of `key` are taken."""
        ...

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes, ttl_s: float) -> None:
        """Keeps a value of at most `VALUE_BYTES_MAX` bytes for `ttl_s` seconds; raises `ValueError` beyond."""
        ...

    async def delete(self, key: str) -> bool:
        """False where there was nothing."""
        ...

    async def incr(self, key: str, by: int, ttl_s: float) -> int:
        """Adds to a whole number and returns the sum. The time to live starts with the first; later ones keep it.

        Raises `ValueError` where the value is no whole number, or the sum needs more than 64 bits.
        """
        ...

    async def ping(self) -> None:
        """Raises `Overloaded` where the store does not answer."""
        ...

    async def aclose(self) -> None: ...


def check_value(value: bytes) -> None:
    """Raises `ValueError` for a value that is no small one."""
    if len(value) > VALUE_BYTES_MAX:
        raise ValueError(f"a value of {len(value)} bytes is over the counters' limit of {VALUE_BYTES_MAX}")


def check_ttl(ttl_s: float) -> None:
    """Raises `ValueError` unless the time to live is at least a millisecond, and finite."""
    if not 0.001 <= ttl_s < 1e9:
        raise ValueError(f"a time to live of {ttl_s} s is not between 0.001 and 1e9")
