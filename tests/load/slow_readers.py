"""R1 and R2: a thousand streams at once of which a fifth is read at 2 kB/s, and readers that stop altogether.

    python -m tests.load.slow_readers --streams 1000       # prints one line of JSON for each

R1: all are right to the byte, the fast ones begin within 2 s (p99), memory rises by 400 MiB at most. R2: what a reader
that has stopped costs, and how much its upstream could send before it was stalled.
"""

import argparse
import array
import asyncio
import fcntl
import json
import socket
import sys
import tempfile
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from tests.live import Live, serving
from tests.load.client import ask, chat, request, told_by_upstream
from tests.load.conftest import CONFIG
from tests.soak.house import stamp
from tests.soak.line import dechunked
from tests.soak.readings import waited_for_cpu
from tests.soak.traffic import quantile
from tests.upstream.exchange import delta
from tests.upstream.process import upstream

SLOW = 5
"""One in so many reads slowly."""
RATE = 2_000
"""Bytes a second that a slow reader takes."""
STEP_S = 0.25


def paced(number: int, tokens: int) -> dict[str, Any]:
    return chat(f"ok:tokens={tokens},ms=60", f"stream {number}", stream=True)


async def fast(live: Live, body: dict[str, Any], begun: asyncio.Barrier, room: asyncio.Semaphore) -> float:
    """Seconds until the first piece; the rest is read once all streams have begun."""
    async with room:  # a few connections being made at a time, as from clients that do not know of each other
        began = time.monotonic()
        stream = ask(live.port, live.key, body)
        answer = await stream.__aenter__()
        first = await answer.piece()
        took = time.monotonic() - began
    try:
        await begun.wait()
        assert first + await answer.body() == told_by_upstream(body)
    finally:
        await stream.__aexit__(None, None, None)
    return took


async def slow(live: Live, body: dict[str, Any], begun: asyncio.Barrier) -> int:
    """Reads at `RATE` through a small window. Gives the bytes it read."""
    loop, heard = asyncio.get_running_loop(), bytearray()
    with socket.socket() as peer:
        peer.setblocking(False)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(peer, ("127.0.0.1", live.port))
        await loop.sock_sendall(peer, request(live.key, body))
        heard += await loop.sock_recv(peer, 256)
        await begun.wait()
        due = loop.time()
        while not heard.endswith(b"\r\n0\r\n\r\n"):
            piece = await loop.sock_recv(peer, int(RATE * STEP_S))
            assert piece, "the stream of a slow reader was cut"
            heard += piece
            due += len(piece) / RATE
            await asyncio.sleep(max(0.0, due - loop.time()))
    whole = dechunked(heard, heard.index(b"\r\n\r\n") + 4)
    assert whole is not None
    assert whole[0] == told_by_upstream(body)
    return len(heard)


async def at_once(live: Live, count: int, slow_tokens: int) -> tuple[list[float], float]:
    """Each fast stream's seconds to its first piece, and the gateway's most memory in MB."""
    begun, room, most, over = asyncio.Barrier(count), asyncio.Semaphore(100), live.rss_mb(), asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, live.rss_mb())
            await asyncio.sleep(0.2)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        slows = [group.create_task(slow(live, paced(n, slow_tokens), begun)) for n in range(0, count, SLOW)]
        fasts = [group.create_task(fast(live, paced(n, 40), begun, room)) for n in range(count) if n % SLOW]
        await asyncio.wait([*slows, *fasts])
        over.set()
    return [task.result() for task in fasts], most


def thousand(live: Live, count: int, slow_tokens: int) -> dict[str, Any]:
    """R1: all streams whole and right; raises where one is not."""
    uvloop.run(at_once(live, 20, 20))  # what a first call allocates is not what a stream costs
    live.settle()
    before, began = live.rss_mb(), time.monotonic()
    first, most = uvloop.run(at_once(live, count, slow_tokens))
    live.settle()
    return {
        "proof": "R1 streams at once", "streams": count, "slow": len(range(0, count, SLOW)), "right": count,
        "ttfb_p50_ms": round(quantile(first, 0.5) * 1000), "ttfb_p99_ms": round(quantile(first, 0.99) * 1000),
        "rss_before_mb": round(before, 1), "rss_rise_mb": round(most - before, 1),
        "seconds": round(time.monotonic() - began, 1), "waited_for_cpu_s": round(waited_for_cpu(live)),
    }  # fmt: skip


class Flood:
    """A model server whose streams never end and never pause. Counts what its clients' machines took of them."""

    def __init__(self) -> None:
        self.sent: dict[socket.socket, int] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("socket")
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                data = b"data: " + delta("x" * 1000) + b"\n\n"
                self.sent[peer] = 0
                while True:
                    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                    self.sent[peer] += len(data)
                    await writer.drain()
        self.sent.pop(peer, None)
        writer.close()

    @property
    def taken(self) -> int:
        """Bytes that left this machine's queue (SIOCOUTQ): the kernel of the other side has them, or its program."""
        waiting = 0
        for peer in self.sent:
            count = array.array("i", [0])
            fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, count)
            waiting += count[0]
        return sum(self.sent.values()) - waiting


async def stopped(folder: Path, count: int) -> dict[str, Any]:
    """R2: readers that take the first piece and no more, of streams that never end."""
    flood = Flood()
    server = await asyncio.start_server(flood.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        with serving(folder, CONFIG.format(upstream=url, engine="false")) as live:
            return await hold(live, flood, count)
    finally:
        server.close()
        await server.wait_closed()


async def hold(live: Live, flood: Flood, count: int) -> dict[str, Any]:
    begun, over = asyncio.Barrier(count + 1), asyncio.Event()

    async def one() -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as peer:
            peer.setblocking(False)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(peer, ("127.0.0.1", live.port))
            await loop.sock_sendall(peer, request(live.key, chat("endless", "go", stream=True)))
            await loop.sock_recv(peer, 256)
            await begun.wait()
            await over.wait()

    before = live.rss_mb()
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
        await begun.wait()
        taken = -1
        while flood.taken != taken:  # until it is stalled
            taken = flood.taken
            await asyncio.sleep(1.0)
        grown, each = live.rss_mb() - before, (len(flood.sent), taken / 1024 / count)
        over.set()
    while flood.sent:
        await asyncio.sleep(0.05)
    return {
        "proof": "R2 stopped readers", "streams": count, "stalled": each[0],
        "held_kib": round(grown * 1024 / count, 1), "taken_kib": round(each[1], 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.load.slow_readers", description=__doc__)
    parser.add_argument("--streams", type=int, default=1_000)
    parser.add_argument("--stopped", type=int, default=200)
    parser.add_argument("--slow-tokens", type=int, default=300, help="of the answers that are read slowly")
    given = parser.parse_args()
    stamped = stamp()
    with tempfile.TemporaryDirectory() as folder, upstream() as model_server:
        with serving(Path(folder), CONFIG.format(upstream=model_server, engine="false")) as live:
            r1 = thousand(live, given.streams, given.slow_tokens)
            print(json.dumps({**r1, **stamped}), flush=True)
        r2 = asyncio.run(stopped(Path(folder) / "second", given.stopped))
        print(json.dumps({**r2, **stamped}))
    return 1 if r1["rss_rise_mb"] > 400 or r1["ttfb_p99_ms"] > 2_000 or r2["held_kib"] > 1_024 else 0


if __name__ == "__main__":
    sys.exit(main())
