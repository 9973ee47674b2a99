"""What each driver promises by itself: memory stays bounded, a dead Redis costs nothing, a dead writer is noticed."""

import asyncio
import itertools
import random
import secrets
import socket

import pytest
import redis

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.core.streams import Gone, StreamSettings
from headgate.storage.errors import StorageError
from headgate.storage.streams.memory import MemoryStreams
from headgate.storage.streams.open import open_streams
from headgate.storage.streams.redis import LOOKS_PER_S, RedisStreams
from headgate.storage.streams.rest import FAILURES, REST_S, REST_S_MAX, Rest
from tests import servers
from tests.clock import VirtualClock

KIB = 1 / 1024


def test_memory_lets_go_of_what_ended_first_and_then_of_what_is_oldest() -> None:
    async def main() -> None:
        streams = MemoryStreams(StreamSettings(stream_mb=4 * KIB, memory_mb=8 * KIB), VirtualClock())
        for name in ("a", "b", "c", "d"):
            await streams.begin(name, b"")
            await streams.append(name, 1, [b"x" * 1024, b"x" * 1024])
            if name < "d":
                await streams.end(name, 2)
        assert (streams.kept, streams.held) == (4, 8 * 1024)
        await streams.append("d", 3, [b"y" * 1024])
        assert await streams.find("a") is None
        assert await streams.find("b") is not None
        for number in range(4, 40):
            await streams.append("d", number, [b"z" * 1024])
            assert streams.held <= 8 * 1024
        await streams.begin("e", b"")
        await streams.begin("f", b"")
        for name in ("e", "f"):
            for number in range(1, 6):
                await streams.append(name, number, [b"w" * 1024])
                assert streams.held <= 8 * 1024
        await streams.aclose()
        assert (streams.kept, streams.held) == (0, 0)

    asyncio.run(main())


def test_in_memory_a_stream_ends_its_readers_when_it_is_forgotten() -> None:
    async def main() -> None:
        streams = MemoryStreams(StreamSettings(), VirtualClock())
        await streams.begin("a", b"")
        waiting = asyncio.ensure_future(streams.read("a", 0, 30.0))
        await asyncio.sleep(0)
        await streams.forget("a")
        with pytest.raises(Gone):
            await waiting

    asyncio.run(main())


def test_the_streams_of_a_writer_that_died_are_lost_within_its_lease(redis_url: str) -> None:
    settings = StreamSettings(lease_s=0.5)

    async def main() -> None:
        prefix = f"test-{secrets.token_hex(6)}:"
        dead, lives, reader = (RedisStreams.at(redis_url, settings, SystemClock(), 20.0, prefix) for _ in range(3))
        beats = asyncio.ensure_future(lives.run())
        for store, key in ((dead, "dead"), (lives, "lives")):
            await store.begin(key, b"about")
            await store.append(key, 1, [b"one"])
        async with asyncio.timeout(20):
            while not (found := await reader.read("dead", 1, 0.1)).lost:
                assert not found.frames
        assert (await reader.read("dead", 0, 0.0)).frames == [b"one"]
        assert not (await reader.read("lives", 1, 0.0)).lost
        beats.cancel()
        for store in (dead, lives, reader):
            await store.aclose()

    asyncio.run(main())


def test_a_redis_that_forgot_everything_gets_what_comes_next(redis_url: str) -> None:
    async def main() -> None:
        prefix = f"test-{secrets.token_hex(6)}:"
        store = RedisStreams.at(redis_url, StreamSettings(), SystemClock(), 20.0, prefix)
        await store.begin("a", b"about")
        await store.append("a", 1, [b"one", b"two"])
        with redis.Redis.from_url(redis_url) as client:
            names = list(client.scan_iter(f"{prefix}*"))
            assert names
            client.delete(*names)
        await store.append("a", 3, [b"three"])
        assert await store.find("a") == b"about"
        assert (await store.read("a", 2, 0.0)).frames == [b"three"]
        with pytest.raises(Gone):
            await store.read("a", 0, 0.0)
        await store.aclose()

    asyncio.run(main())


def test_everything_in_redis_expires(redis_url: str) -> None:
    async def main() -> None:
        prefix = f"test-{secrets.token_hex(6)}:"
        store = RedisStreams.at(redis_url, StreamSettings(), SystemClock(), 20.0, prefix)
        await store.begin("a", b"about")
        await store.append("a", 1, [b"one"])
        await store.read("a", 0, 0.0)
        for ended in (False, True):
            if ended:
                await store.end("a", 1)
            with redis.Redis.from_url(redis_url) as client:
                names = list(client.scan_iter(f"{prefix}*"))
                assert len(names) == (3 if ended else 4)
                assert all(0 < client.pttl(name) <= 320_000 for name in names)
        await store.aclose()

    asyncio.run(main())


def test_a_reader_that_is_cancelled_ends_whatever_the_client_was_doing(redis_url: str) -> None:
    async def main() -> None:
        prefix, rng = f"test-{secrets.token_hex(6)}:", random.Random(7)
        writer, reader = (RedisStreams.at(redis_url, StreamSettings(), SystemClock(), 20.0, prefix) for _ in range(2))
        await writer.begin("a", b"about")

        async def write() -> None:
            number = 0
            while True:
                number += 1
                await writer.append("a", number, [b"frame"])
                await asyncio.sleep(0.002)

        async def follow() -> None:
            after = 0
            while True:
                after += len((await reader.read("a", after, 5.0)).frames)

        writing = asyncio.ensure_future(write())
        for _ in range(100):
            following = asyncio.ensure_future(follow())
            await asyncio.sleep(rng.random() * 0.02)
            following.cancel()
            await asyncio.wait({following}, timeout=20.0)
            assert following.cancelled()
        writing.cancel()
        await asyncio.wait({writing}, timeout=20.0)
        for store in (writer, reader):
            await store.aclose()

    asyncio.run(main())


def test_however_many_follow_redis_is_asked_only_so_often() -> None:
    process, url = servers.start_redis()
    seconds, readers = 2.5, 600

    async def main() -> None:
        store = RedisStreams.at(url, StreamSettings(), SystemClock(), 20.0)
        await store.begin("a", b"about")

        async def follow() -> None:
            while True:
                assert not (await store.read("a", 0, 2.0)).frames

        following = [asyncio.ensure_future(follow()) for _ in range(readers)]
        with redis.Redis.from_url(url) as client:
            await asyncio.sleep(3.0)  # until each has had its first look
            before = client.info("stats")["total_commands_processed"]
            await asyncio.sleep(seconds)
            asked = client.info("stats")["total_commands_processed"] - before
        for task in following:
            task.cancel()
        await asyncio.wait(following, timeout=20.0)
        assert asked < 10 * seconds * LOOKS_PER_S, "a look is seven commands"
        await store.aclose()

    try:
        asyncio.run(main())
    finally:
        process.stop()


def test_a_dead_redis_is_said_and_then_left_alone() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port
            url = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
            clock = VirtualClock()
            store = RedisStreams.at(url, StreamSettings(), clock, 5.0)
            said = []
            for _ in range(FAILURES + 3):
                with pytest.raises(Overloaded) as caught:
                    await store.find("a")
                said.append(caught.value.message)
                assert caught.value.code == "streams_unavailable"
            assert all("cannot be used" in message for message in said[:FAILURES])
            assert all("is away" in message for message in said[FAILURES:])
            clock.jump(REST_S)
            with pytest.raises(Overloaded, match="cannot be used"):
                await store.find("a")
            await store.aclose()

    asyncio.run(main())


def test_one_at_a_time_tries_a_store_that_is_away_and_ever_more_rarely() -> None:
    rest, now, tries = Rest(), 0.0, []
    for _ in range(FAILURES):
        assert rest.admits(now)
        rest.failed(now)
    while now < 60:
        if rest.admits(now):
            assert not rest.admits(now)
            tries.append(now)
            rest.failed(now)
        now += 0.1
    gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
    assert gaps[0] < gaps[2] <= REST_S_MAX + 0.2
    assert len(tries) < 20
    rest.answered()
    assert rest.admits(now)
    assert rest.admits(now)


def test_a_url_that_makes_no_sense_is_said_with_the_remedy() -> None:
    clock = VirtualClock()
    with pytest.raises(StorageError, match=r"use memory or redis://host:port/0"):
        open_streams("memcached://x", StreamSettings(), clock)
    with pytest.raises(StorageError, match=r"write redis://host:port/0"):
        open_streams("redis://host:port", StreamSettings(), clock)
    assert isinstance(open_streams("memory", StreamSettings(), clock), MemoryStreams)
