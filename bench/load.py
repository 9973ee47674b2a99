"""The load, in its own process: prints one JSON object with what it counted in its window.

    python -m bench.load closed --port 8000 --connections 32     each connection asks again once it has its answer
    python -m bench.load open --port 8000 --rate 200             Poisson arrivals
    python -m bench.load hold --port 8000 --connections 200      streams that outlast the window

Open loop, latency counts from the time a request was due, so that a stall of the server is not hidden.
`--pids` names the processes whose CPU time in the window is read here, at its very edges. Answers are checked: status,
framing, and for streams the number of chunks and `[DONE]`; what is wrong counts as `bad`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import selectors
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import httptools
import uvloop

from bench.process import GATEWAY_CORE, core_busy_seconds, cpu_seconds, memory_mb
from bench.upstream import STAMP, STAMP_BYTES

WARM_SECONDS = 0.5
RAMP_SECONDS = 1.0
"""Over which held streams are opened, so that their chunks do not fall together."""
LATE_SECONDS = 5.0
"""How long answers may still come after the window."""
Begin = Callable[[], None]
"""Called when the window opens."""
_TEXT = "Please summarise the following text in three short sentences for a busy reader. "


def request(options: argparse.Namespace) -> bytes:
    streaming = ',"stream":true,"stream_options":{"include_usage":true}' if options.chunks else ""
    model = f"mock-{options.chunks}-{options.gap_ms}" if options.chunks else "mock"
    before = (
        f'{{"model":"{model}","messages":[{{"role":"system","content":"You are a helpful assistant."}},'
        '{"role":"user","content":"'
    )
    after = f'"}}],"temperature":0.7,"max_tokens":256{streaming}}}'
    room = max(1, options.body_bytes - len(before) - len(after))
    body = before + (_TEXT * (room // len(_TEXT) + 1))[:room] + after
    return (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{options.port}\r\nAccept: */*\r\n"
        f"Authorization: Bearer {options.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


@dataclass
class Counts:
    """What happened in the window. Times are nanoseconds."""

    answers: int = 0
    chunks: int = 0
    bad: int = 0
    latency: list[int] = field(default_factory=list)
    ttft: list[int] = field(default_factory=list)
    transit: list[int] = field(default_factory=list)


class Run:
    """One measurement: its options, its counts, its connections."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loop = asyncio.get_running_loop()
        self.request = request(options)
        self.counts = Counts()
        self.counting = False
        self.outstanding = 0
        self.all_here: asyncio.Event | None = None
        self.clients: list[Client] = []
        self.idle: list[Client] = []

    async def dial(self) -> "Client":
        _, client = await self.loop.create_connection(lambda: Client(self), "127.0.0.1", self.options.port)
        self.clients.append(client)
        return client

    def done(self, client: "Client", good: bool, since: int, first: int, now: int) -> None:
        """An answer has ended, one way or the other."""
        if self.options.mode == "open":
            self.outstanding -= 1
            if self.outstanding == 0 and self.all_here is not None:
                self.all_here.set()
            counted = client.counted
        else:
            counted = self.counting
        if counted:
            self.counts.bad += not good
            if good:
                self.counts.answers += 1
                self.counts.latency.append(now - since)
                self.counts.ttft.append(first - since)
        if not client.open:
            return
        if self.options.mode == "open":
            self.idle.append(client)
        elif self.options.mode == "closed":
            client.ask(time.monotonic_ns())

    async def measure(self) -> dict[str, object]:
        modes: dict[str, Callable[[Begin], Awaitable[None]]] = {
            "closed": self.closed, "open": self.open, "hold": self.hold,
        }  # fmt: skip
        pids = self.options.pids
        core = min(os.sched_getaffinity(pids[0])) if pids else GATEWAY_CORE
        started, cpu, busy = 0.0, 0.0, 0.0

        def begin() -> None:
            nonlocal started, cpu, busy
            started, cpu, busy = self.loop.time(), cpu_seconds(pids), core_busy_seconds(core)
            self.counting = True

        await modes[self.options.mode](begin)
        self.counting = False
        seconds = self.loop.time() - started
        used = cpu_seconds(pids) - cpu
        others = core_busy_seconds(core) - busy - used
        memory = memory_mb(pids)
        if self.options.mode == "open":
            await self._late()
        for client in self.clients:
            client.leave()
        return {**self._result(seconds, used, others), "memory_mb": round(memory, 1)}

    async def closed(self, begin: Begin) -> None:
        for _ in range(self.options.connections):
            (await self.dial()).ask(time.monotonic_ns())
        await asyncio.sleep(WARM_SECONDS)
        begin()
        await asyncio.sleep(self.options.seconds)

    async def hold(self, begin: Begin) -> None:
        for _ in range(self.options.connections):
            (await self.dial()).ask(time.monotonic_ns())
            await asyncio.sleep(RAMP_SECONDS / self.options.connections)
        await asyncio.sleep(WARM_SECONDS)
        begin()
        await asyncio.sleep(self.options.seconds)
        self.counts.bad += sum(not client.busy for client in self.clients)

    async def open(self, begin: Begin) -> None:
        chance = random.Random(1)  # the same arrivals for every subject
        due = self.loop.time()
        start = due + WARM_SECONDS
        end = start + self.options.seconds
        self.idle = [await self.dial() for _ in range(8)]
        while due < end:
            await asyncio.sleep(due - self.loop.time())
            if not self.counting and due >= start:
                begin()
            client = self.idle.pop() if self.idle else await self.dial()
            client.counted = self.counting
            self.outstanding += 1
            client.ask(round(due * 1e9))
            due += chance.expovariate(self.options.rate)

    async def _late(self) -> None:
        if self.outstanding:
            self.all_here = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.all_here.wait(), LATE_SECONDS)
        self.counts.bad += self.outstanding

    def _result(self, seconds: float, cpu: float, others: float) -> dict[str, object]:
        counts = self.counts
        pieces = {"request": counts.answers, "chunk": counts.chunks}
        offered = self.options.connections * 1000 / self.options.gap_ms if self.options.mode == "hold" else None
        return {
            **({"offered_per_s": offered} if offered else {}),
            "seconds": round(seconds, 3),
            "answers": counts.answers,
            "chunks": counts.chunks,
            "bad": counts.bad,
            "answers_per_s": round(counts.answers / seconds, 1),
            "chunks_per_s": round(counts.chunks / seconds, 1),
            "core_pct": round(cpu / seconds * 100, 1),
            "others_pct": round(max(0.0, others) / seconds * 100, 1),
            **{f"cpu_us_{name}": round(cpu * 1e6 / count, 2) for name, count in pieces.items() if count},
            **_spread("latency", counts.latency),
            **_spread("ttft", counts.ttft),
            **_spread("transit", counts.transit),
        }


def _spread(name: str, values: list[int]) -> dict[str, float]:
    values.sort()
    return {
        f"{name}_ms_p{round(part * 100)}": round(values[int(part * (len(values) - 1))] / 1e6, 4)
        for part in (0.5, 0.99)
        if values
    }


class Client(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.open = False
        self.busy = False
        self.counted = False
        self._leaving = False
        self._now = 0
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.open = True

    def ask(self, since: int) -> None:
        """`since` is the nanosecond from which its latency counts."""
        self.busy = True
        self._since = since
        self._first = 0
        self._chunks = 0
        self._tail = b""
        self._transport.write(self._run.request)

    def leave(self) -> None:
        self._leaving = True
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self.busy and not self._leaving:
            self._end(False)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic_ns()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()  # counts as wrong when it is lost

    def on_body(self, data: bytes) -> None:
        """A gateway may cut chunks anew, so a stamp may come in two pieces."""
        self._first = self._first or self._now
        if not self._run.options.chunks:
            return
        counts, counting = self._run.counts, self._run.counting
        data = self._tail + data
        at = data.find(STAMP)
        known = 0
        while at >= 0 and len(data) - at >= STAMP_BYTES:
            self._chunks += 1
            known = at + STAMP_BYTES
            if counting:
                counts.chunks += 1
                counts.transit.append(self._now - int(data[at + 3 : at + 19], 16))
            at = data.find(STAMP, known)
        self._tail = data[max(known, len(data) - STAMP_BYTES) :]

    def on_message_complete(self) -> None:
        wanted = self._run.options.chunks
        whole = b"[DONE]" in self._tail and self._chunks == wanted if wanted else self._first > 0
        self._end(whole and self._parser.get_status_code() == 200)

    def _end(self, good: bool) -> None:
        self.busy = False
        self._run.done(self, good, self._since, self._first, self._now)


async def main(options: argparse.Namespace) -> None:
    print(json.dumps(await Run(options).measure()))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.load", description=__doc__)
    parser.add_argument("mode", choices=["closed", "open", "hold"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--body-bytes", type=int, default=1_000)
    parser.add_argument("--chunks", type=int, default=0, help="0: no stream")
    parser.add_argument("--gap-ms", type=int, default=0)
    parser.add_argument("--pids", type=lambda text: [int(pid) for pid in text.split(",")], default=[])
    return parser.parse_args()


if __name__ == "__main__":
    given = parse()
    if given.mode == "open":  # uvloop's timers are whole milliseconds; arrivals want microseconds
        loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        loop.run_until_complete(main(given))
    else:
        uvloop.run(main(given))
