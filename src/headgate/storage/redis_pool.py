"""Connections to Redis: bounded in number and in time, and nothing is tried again behind our back."""

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from headgate.storage.errors import StorageError


def connection_pool(
    url: str, connections: int, timeout_s: float, longest_s: float | None = None
) -> BlockingConnectionPool:
    """Connects on first use. `longest_s`: how long an answer may take, by default as long as a connection.

    Raises `StorageError` for a URL that the client does not understand.
    """
    try:
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url,
            max_connections=connections,
            timeout=timeout_s,
            socket_timeout=timeout_s if longest_s is None else longest_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        # The URL may hold a password: only what was wrong with it is said.
        raise StorageError(f"storage.counters: {error}; write redis://host:port/0") from error
    return pool
