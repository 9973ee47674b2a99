"""Clients that hold connections without using them are cut, while honest ones are served."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live import Live, serving
from tests.load.client import ask, chat
from tests.security.raw import post_head

DRIP_S = 0.25


async def slow(live: Live, kind: int) -> float:
    """Seconds until the server has closed a connection on which one byte comes now and then, or nothing."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    head = post_head(live, "Content-Length: 1000000") + b"\r\n\r\n"
    first, drop = (
        (b"", b""),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n"),
        (b"GET /" + b"a" * 50, b"a"),
        (head, b" "),
        (head + b"{", b""),
        (post_head(live, "Transfer-Encoding: chunked") + b"\r\n\r\n", b"1\r\n \r\n"),
        (post_head(live, "Transfer-Encoding: chunked") + b"\r\n\r\n5", b""),
        (b"\x16\x03\x01", b"\x00"),
    )[kind % 8]
    writer.write(first)
    gone = asyncio.ensure_future(reader.read())
    while not gone.done():
        await asyncio.wait([gone], timeout=DRIP_S)
        if drop:
            writer.write(drop)
    with suppress(ConnectionError):
        gone.result()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return time.monotonic() - begun


async def honest(live: Live, over: asyncio.Event) -> int:
    served = 0
    while not over.is_set():
        async with ask(live.port, live.key, chat("scripted", f"number {served}")) as answer:
            assert f"number {served}".encode() in await answer.body()
        served += 1
        await asyncio.sleep(0.05)
    return served


async def besieged(live: Live, count: int) -> tuple[float, int]:
    """The longest life of a slow connection, and how many honest calls were served meanwhile."""
    over = asyncio.Event()
    serving_others = asyncio.ensure_future(honest(live, over))
    async with asyncio.timeout(60):
        lives = await asyncio.gather(*(slow(live, kind) for kind in range(count)))
    over.set()
    return max(lives), await serving_others


def test_forty_slow_connections_are_cut_and_honest_calls_served(gate: Live) -> None:
    longest, served = asyncio.run(besieged(gate, 40))
    print(f"cut after {longest:.1f} s at most; {served} honest calls served")
    assert served > 3


@pytest.mark.prove
def test_a_hundred_slow_connections_are_cut_within_thirty_seconds(tmp_path: Path) -> None:
    config = "discover: false\nengine: {enabled: false}\nbackends:\n  - {name: script, kind: scripted}\n"
    with serving(tmp_path, config) as live:
        longest, served = asyncio.run(besieged(live, 100))
        print(f"cut after {longest:.1f} s at most; {served} honest calls served")
        assert longest < 30
        assert served > 100
