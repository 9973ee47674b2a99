"""What only the counters on Redis promise: they survive the server's restart, and name its absence."""

import asyncio
import secrets
import socket

import pytest
import redis

from headgate.core.errors import Overloaded
from headgate.storage.counters.memory import MemoryCounters
from headgate.storage.counters.open import open_counters
from headgate.storage.counters.redis import RedisCounters
from headgate.storage.errors import StorageError
from tests import servers
from tests.clock import VirtualClock


def test_a_server_that_forgot_the_scripts_is_told_them_again(redis_url: str) -> None:
    async def main() -> None:
        counters = RedisCounters.at(redis_url, timeout_s=20.0, prefix=f"test-{secrets.token_hex(6)}:")
        try:
            assert await counters.acquire("a", "one", 1, 60)
            with redis.Redis.from_url(redis_url) as admin:
                admin.script_flush()
            assert not await counters.acquire("a", "two", 1, 60)
        finally:
            await counters.aclose()

    asyncio.run(main())


def test_nothing_stays_on_the_server_longer_than_it_means_something(redis_url: str) -> None:
    prefix = f"test-{secrets.token_hex(6)}:"

    async def main() -> None:
        counters = RedisCounters.at(redis_url, timeout_s=20.0, prefix=prefix)
        try:
            await counters.acquire("a", "holder", 1, 60)
            await counters.acquire("a", "brief", 2, 1)
            await counters.incr("n", 1, 60)
        finally:
            await counters.aclose()

    asyncio.run(main())
    with redis.Redis.from_url(redis_url) as admin:
        left = {key: admin.pttl(key) for key in admin.scan_iter(match=prefix + "*")}
    assert {key.removeprefix(prefix.encode()) for key in left} == {b"l:a", b"v:n"}
    assert all(0 < milliseconds <= 60_100 for milliseconds in left.values())
    assert left[f"{prefix}l:a".encode()] > 1_000


def test_a_dead_server_is_overloaded_and_its_return_is_noticed() -> None:
    async def main() -> None:
        server, url = servers.start_redis()
        counters = RedisCounters.at(url, timeout_s=20.0)
        try:
            assert await counters.acquire("a", "one", 2, 60)
            server.kill()
            for _ in range(3):
                with pytest.raises(Overloaded, match="counter store") as caught:
                    await counters.acquire("a", "one", 2, 60)
                assert caught.value.retry_after
                assert caught.value.code == "counters_unavailable"
            again, _ = servers.start_redis(int(url.rpartition(":")[2].partition("/")[0]))
            server.stop()
            assert await counters.acquire("a", "one", 2, 60)
            again.stop()
        finally:
            await counters.aclose()
            server.stop()

    asyncio.run(main())


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel accepts, nobody answers
            counters = RedisCounters.at(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.1)
            try:
                with pytest.raises(Overloaded, match="counter store"):
                    await counters.ping()
            finally:
                await counters.aclose()

    asyncio.run(main())


def test_the_setting_chooses_the_driver(redis_url: str) -> None:
    async def main() -> None:
        clock = VirtualClock()
        assert isinstance(open_counters("memory", clock), MemoryCounters)
        counters = open_counters(redis_url, clock)
        assert isinstance(counters, RedisCounters)
        await counters.ping()
        await counters.aclose()
        for wrong in ("etcd://secret@host", "redis://user:secret@host:port/0", ""):
            with pytest.raises(StorageError, match=r"storage\.counters: .*redis://host:port/0") as caught:
                open_counters(wrong, clock)
            assert "secret" not in str(caught.value)

    asyncio.run(main())
