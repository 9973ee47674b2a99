"""What `storage.counters` may say, and the one place that knows what it takes to follow it."""

from collections.abc import Iterator
from contextlib import contextmanager

from headgate.storage.errors import StorageError

_SCHEMES = frozenset({"redis", "rediss", "unix"})


def is_redis(url: str) -> bool:
    """False for `memory`; True for `redis://[user:password@]host:port[/db]`, `rediss://` (TLS), `unix://` (a socket).

    Raises `StorageError` for anything else.
    """
    if url == "memory":
        return False
    scheme = url.partition("://")[0]
    if scheme not in _SCHEMES:
        raise StorageError(f"storage.counters: '{scheme}' is not known; use memory or redis://host:port/0")
    return True


@contextmanager
def client_needed() -> Iterator[None]:
    """Around the import of what needs the Redis client, an extra: whoever keeps all in memory need not have it.

    Raises `StorageError` where it is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise StorageError(
            "storage.counters: the Redis client is not installed; run: pip install 'headgate[redis]'"
        ) from error
