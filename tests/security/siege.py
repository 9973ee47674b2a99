"""R11: thousands of clients that hold connections without using them, while honest ones call.

    python -m tests.security.siege --attackers 2500       # prints one line of JSON

All are cut within 30 s, no honest call fails, and their p99 stays below 200 ms.
"""

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.live import Live, serving
from tests.load.client import ask, chat
from tests.security.raw import post_head
from tests.soak.house import stamp
from tests.soak.readings import waited_for_cpu
from tests.soak.traffic import quantile

CONFIG = "discover: false\nengine: {enabled: false}\nbackends:\n  - {name: script, kind: scripted}\n"


async def slow(live: Live, kind: int, drip_s: float) -> float:
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
        await asyncio.wait([gone], timeout=drip_s if drop else None)
        if drop:
            writer.write(drop)
    with suppress(ConnectionError):
        gone.result()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return time.monotonic() - begun


async def honest(live: Live, over: asyncio.Event) -> list[float]:
    """The seconds that each call took."""
    served: list[float] = []
    while not over.is_set():
        begun = time.monotonic()
        async with ask(live.port, live.key, chat("scripted", f"number {len(served)}")) as answer:
            assert f"number {len(served)}".encode() in await answer.body()
        served.append(time.monotonic() - begun)
        await asyncio.sleep(0.05)
    return served


async def attacked(live: Live, count: int, drip_s: float) -> float:
    """The longest life of a slow connection."""
    async with asyncio.timeout(90):
        return max(await asyncio.gather(*(slow(live, kind, drip_s) for kind in range(count))))


def besieged(live: Live, count: int, drip_s: float = 0.25) -> tuple[float, list[float]]:
    """The longest life of a slow connection, and what honest calls took meanwhile: from another process than that of
    the attackers, whose own slowness would count as ours.
    """
    context = multiprocessing.get_context("fork")
    told, tell = context.Pipe(duplex=False)
    attackers = context.Process(target=lambda: tell.send(asyncio.run(attacked(live, count, drip_s))))
    attackers.start()
    tell.close()

    async def meanwhile() -> list[float]:
        over = asyncio.Event()
        calls = asyncio.ensure_future(honest(live, over))
        await asyncio.to_thread(attackers.join)
        over.set()
        return await calls

    try:
        served = asyncio.run(meanwhile())
        return told.recv(), served
    finally:
        attackers.kill()
        attackers.join()
        told.close()


def siege(folder: Path, count: int) -> dict[str, Any]:
    """With the settings as they are by default."""
    with serving(folder, CONFIG) as live:
        before = live.rss_mb()
        longest, served = besieged(live, count, drip_s=2.0)
        return {
            "proof": "R11 slow attackers", "attackers": count, "cut_after_most_s": round(longest, 1),
            "honest_calls": len(served), "honest_failed": 0,
            "honest_p50_ms": round(quantile(served, 0.5) * 1000, 1),
            "honest_p99_ms": round(quantile(served, 0.99) * 1000, 1),
            "honest_most_ms": round(max(served) * 1000, 1), "rss_rise_mb": round(live.rss_mb("VmHWM") - before, 1),
            "waited_for_cpu_s": round(waited_for_cpu(live)),
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.security.siege", description=__doc__)
    parser.add_argument("--attackers", type=int, default=2_500)
    given = parser.parse_args()
    stamped = stamp()
    with tempfile.TemporaryDirectory() as folder:
        line = siege(Path(folder), given.attackers)
    print(json.dumps({**line, **stamped}))
    return 1 if line["cut_after_most_s"] > 30 or line["honest_p99_ms"] > 200 else 0


if __name__ == "__main__":
    sys.exit(main())
