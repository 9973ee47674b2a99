"""Every driver keeps streams alike: numbered, once, bounded, and gone in time."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from headgate.core.clock import SystemClock
from headgate.core.streams import READ_FRAMES, Gone, Page, StreamSettings, StreamStore, stream_key
from headgate.storage.streams.memory import MemoryStreams
from headgate.storage.streams.redis import RedisStreams

KEY = stream_key("acme", "req_1")
SMALL = StreamSettings(stream_mb=1 / 1024, grace_s=20, keep_s=60)
"""A kibibyte for each stream."""
BRIEF = StreamSettings(keep_s=0.2, grace_s=0.2, lease_s=0.5)


class Driver:
    """Makes stores of one kind."""

    def __init__(self, kind: str, url: str) -> None:
        self._kind = kind
        self._url = url

    @asynccontextmanager
    async def open(self, settings: StreamSettings = SMALL) -> AsyncIterator[tuple[StreamStore, StreamStore]]:
        """What the writer uses, and what a reader uses: of another process, where the driver knows such."""
        clock, prefix = SystemClock(), f"test-{secrets.token_hex(6)}:"
        writer: StreamStore
        reader: StreamStore
        if self._kind == "memory":
            writer = reader = MemoryStreams(settings, clock)
        else:
            writer = RedisStreams.at(self._url, settings, clock, timeout_s=20.0, prefix=prefix)
            reader = RedisStreams.at(self._url, settings, clock, timeout_s=20.0, prefix=prefix)
        try:
            yield writer, reader
        finally:
            await writer.aclose()
            await reader.aclose()


@pytest.fixture(params=["memory", "redis"])
def driver(request: pytest.FixtureRequest) -> Driver:
    url = request.getfixturevalue("redis_url") if request.param == "redis" else ""
    return Driver(request.param, url)


def run(driver: Driver, test: Callable[[StreamStore, StreamStore], Awaitable[None]], settings: StreamSettings) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), driver.open(settings) as (writer, reader):
            await test(writer, reader)

    asyncio.run(main())


def page(*frames: bytes, end: bool = False) -> Page:
    return Page(list(frames), end=end)


def plain(found: Page) -> Page:
    return Page(list(found.frames), found.end, found.lost)


async def gone(store: StreamStore, after: int) -> bool:
    try:
        await store.read(KEY, after, 0.0)
    except Gone:
        return True
    return False


def test_whoever_has_n_frames_gets_those_after_n_and_the_end(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        assert await reader.find(KEY) == b"about"
        assert plain(await reader.read(KEY, 0, 0.0)) == page()
        await writer.append(KEY, 1, [b"one", b"two"])
        await writer.append(KEY, 3, [b"three"])
        assert plain(await reader.read(KEY, 0, 0.0)) == page(b"one", b"two", b"three")
        assert plain(await reader.read(KEY, 2, 0.0)) == page(b"three")
        assert plain(await reader.read(KEY, 3, 0.0)) == page()
        await writer.end(KEY, 3)
        assert plain(await reader.read(KEY, 1, 0.0)) == page(b"two", b"three", end=True)
        assert plain(await reader.read(KEY, 3, 0.0)) == page(end=True)

    run(driver, test, SMALL)


def test_what_is_said_twice_is_there_once(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        for _ in range(2):
            await writer.begin(KEY, b"about")
        await writer.append(KEY, 1, [b"one", b"two"])
        await writer.append(KEY, 1, [b"one", b"two"])
        await writer.append(KEY, 2, [b"two", b"three"])
        for _ in range(2):
            await writer.end(KEY, 3)
        assert plain(await reader.read(KEY, 0, 0.0)) == page(b"one", b"two", b"three", end=True)

    run(driver, test, SMALL)


def test_a_reader_that_waits_hears_at_once(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        waiting = asyncio.ensure_future(reader.read(KEY, 0, 30.0))
        await asyncio.sleep(0.05)
        await writer.append(KEY, 1, [b"one"])
        assert plain(await waiting) == page(b"one")
        waiting = asyncio.ensure_future(reader.read(KEY, 1, 30.0))
        await asyncio.sleep(0.05)
        await writer.end(KEY, 1)
        assert plain(await waiting) == page(end=True)

    run(driver, test, SMALL)


def test_waiting_in_vain_ends(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        await writer.append(KEY, 1, [b"one"])
        assert plain(await reader.read(KEY, 1, 0.05)) == page()

    run(driver, test, SMALL)


def test_a_reader_may_have_more_than_the_store_as_long_as_the_stream_goes_on(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        await writer.append(KEY, 1, [b"one"])
        assert plain(await reader.read(KEY, 3, 0.02)) == page()
        await writer.append(KEY, 2, [b"two", b"three", b"four"])
        assert plain(await reader.read(KEY, 3, 0.0)) == page(b"four")
        await writer.end(KEY, 4)
        assert await gone(reader, 5)

    run(driver, test, SMALL)


def test_what_is_not_known_is_gone(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        assert await reader.find(KEY) is None
        assert await gone(reader, 0)
        await writer.begin(KEY, b"about")
        assert await reader.find(stream_key("other", "req_1")) is None
        await writer.forget(KEY)
        assert await reader.find(KEY) is None
        assert await gone(reader, 0)
        assert writer.kept == 0

    run(driver, test, SMALL)


def test_of_a_long_stream_the_newest_part_is_kept(driver: Driver) -> None:
    frames = [b"%0100d" % number for number in range(1, 41)]

    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        for first in range(0, 40, 4):
            await writer.append(KEY, first + 1, frames[first : first + 4])
        await writer.end(KEY, 40)
        assert plain(await reader.read(KEY, 30, 0.0)) == page(*frames[30:], end=True)
        assert await gone(reader, 29)
        assert await gone(reader, 0)

    run(driver, test, SMALL)


def test_one_read_gives_a_bounded_number_of_frames(driver: Driver) -> None:
    frames = [b"%d" % number for number in range(READ_FRAMES + 5)]

    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        await writer.append(KEY, 1, frames)
        await writer.end(KEY, len(frames))
        assert plain(await reader.read(KEY, 0, 0.0)) == page(*frames[:READ_FRAMES])
        assert plain(await reader.read(KEY, READ_FRAMES, 0.0)) == page(*frames[READ_FRAMES:], end=True)

    run(driver, test, SMALL)


def test_it_is_forgotten_in_time_after_its_end_and_not_before(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        await writer.append(KEY, 1, [b"one"])
        await asyncio.sleep(0.3)
        assert plain(await reader.read(KEY, 0, 0.0)) == page(b"one")
        await writer.end(KEY, 1)
        while await reader.find(KEY) is not None:
            await asyncio.sleep(0.02)
        assert await gone(reader, 0)
        assert (writer.kept, writer.held) == (0, 0)

    run(driver, test, BRIEF)


def test_who_read_lately_counts_as_following(driver: Driver) -> None:
    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        assert await writer.followed(KEY) == 0
        await reader.read(KEY, 0, 0.0)
        assert 0 < await writer.followed(KEY) <= BRIEF.grace_s
        while await writer.followed(KEY):
            await asyncio.sleep(0.02)

    run(driver, test, BRIEF)


def test_many_readers_get_all_of_it_each(driver: Driver) -> None:
    frames = [b"%d" % number for number in range(200)]

    async def follow(reader: StreamStore) -> list[bytes]:
        got: list[bytes] = []
        while True:
            found = await reader.read(KEY, len(got), 5.0)
            got += found.frames
            if found.end:
                return got

    async def test(writer: StreamStore, reader: StreamStore) -> None:
        await writer.begin(KEY, b"about")
        readers = [asyncio.ensure_future(follow(reader)) for _ in range(100)]
        for number, frame in enumerate(frames, 1):
            await writer.append(KEY, number, [frame])
        await writer.end(KEY, len(frames))
        assert all(got == frames for got in await asyncio.gather(*readers))

    run(driver, test, SMALL)
