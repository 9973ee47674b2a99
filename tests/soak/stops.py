"""R3: SIGTERM in the middle of 200 streams, again and again: each is finished, what comes later is refused at once.

    python -m tests.soak.stops --rounds 100       # prints progress, then one line of JSON

One in twenty upstream answers is faulty, so streams are rescued while the server stops. Every tenth round has streams
that would go on for longer than the grace time, and some that nobody reads: the former end in an error, and the server
ends nevertheless.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from headgate.bench.chaos.words import Voice
from tests.live import ADMIN_KEY, Live, serving
from tests.soak.house import settings, stamp, upstreams
from tests.soak.line import Heard, Line, call, connect
from tests.soak.traffic import quantile

TOKENS = 20
FAULTY = 0.05
GRACE_S = 8.0
BEYOND = 5
"""Streams that outlive the grace time, in a round that has them."""
UNREAD = 3
"""Streams without an end that nobody reads, in the same rounds."""
IDLE = 10
"""Connections kept without a call."""


@dataclass
class Seen:
    """All rounds together. Times in seconds."""

    finished: int = 0
    dropped: list[str] = field(default_factory=list)
    ended: int = 0
    """Streams told, in an error frame, that the grace time is over."""
    accepted_until: list[float] = field(default_factory=list)
    """After the signal, a round each: calls that began later were refused."""
    refusals: list[float] = field(default_factory=list)
    """How long each refusal took."""
    lost: int = 0
    """Calls in the kernel's queue, unseen by the server, when it stopped listening."""
    exits: list[float] = field(default_factory=list)
    """From the signal to the exit."""
    after_last: list[float] = field(default_factory=list)
    """From the end of the last stream to the exit."""
    closed_after: list[float] = field(default_factory=list)
    """From the signal to the end of the last idle connection."""
    codes: list[int] = field(default_factory=list)


class Round:
    """One server, its streams, and the signal."""

    def __init__(self, live: Live, seen: Seen, streams: int, rng: random.Random, *, beyond: bool) -> None:
        self.live, self.seen, self.streams, self.rng, self.beyond = live, seen, streams, rng, beyond
        self.begun = 0
        self.going = asyncio.Event()
        self.told_at = 0.0
        self.last = 0.0
        self.late = 0.0
        """How long after the signal the last call began that was still answered."""

    async def run(self) -> None:
        unread = [await self._unread() for _ in range(UNREAD if self.beyond else 0)]
        idle = [await connect(self.live.port) for _ in range(IDLE)]
        for line in idle:
            await self._short(line)
        async with asyncio.TaskGroup() as group:
            for number in range(self.streams):
                group.create_task(self._stream(number))
            for number in range(BEYOND if self.beyond else 0):
                group.create_task(self._endless(number))
            await self.going.wait()
            await asyncio.sleep(self.rng.uniform(0, 0.5))
            knocking = group.create_task(self._knocks())
            await asyncio.sleep(0.05)
            self.told_at = time.monotonic()
            self.live.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*(self._closed(line) for line in idle))
            self.seen.closed_after.append(time.monotonic() - self.told_at)
            await knocking
            self.seen.accepted_until.append(self.late)
        self.seen.codes.append(await asyncio.to_thread(self.live.process.wait, GRACE_S + 30))
        ended = time.monotonic()
        for line in unread:
            line.close()
        self.seen.exits.append(ended - self.told_at)
        self.seen.after_last.append(ended - self.last)

    async def _short(self, line: Line) -> Heard | None:
        body = {"model": "chaos:tokens=2", "messages": [{"role": "user", "content": "hello"}]}
        line.send(call(ADMIN_KEY, body))
        return await line.answer()

    async def _closed(self, line: Line) -> None:
        while line.open:
            await line.more()

    async def _stream(self, number: int) -> None:
        marker = f"marker-{number}-{self.rng.randrange(1 << 40)}"
        body = {"model": "goes-on", "messages": [{"role": "user", "content": marker}], "stream": True, "seed": 7}
        line = await connect(self.live.port)
        headers = {"x-headgate-resumable": "true"} if number % 8 == 0 else {}
        line.send(call(ADMIN_KEY, body, headers))
        await self._wait_for_words(line)
        heard = await line.answer()
        self.last = max(self.last, time.monotonic())
        expected = Voice((("user", marker),), "", marker).text(TOKENS)
        if heard is not None and heard.complete and heard.text == expected:
            self.seen.finished += 1
        else:
            self.seen.dropped.append(f"{heard and heard.status} {heard and heard.body[-600:]!r}")
        line.close()

    async def _wait_for_words(self, line: Line) -> None:
        size = 1
        while b'"content":"m' not in (data := await line.begun(size)) and line.open and not data.endswith(b"0\r\n\r\n"):
            size = len(data) + 1
        self.begun += 1
        if self.begun == self.streams:
            self.going.set()

    async def _endless(self, number: int) -> None:
        model = "chaos:rate=5,tokens=1000"
        body = {"model": model, "messages": [{"role": "user", "content": f"{number}"}], "stream": True}
        line = await connect(self.live.port)
        line.send(call(ADMIN_KEY, body))
        heard = await line.answer()
        if heard is not None and b'"error"' in heard.body and b"[DONE]" not in heard.body:
            self.seen.ended += 1
        else:
            self.seen.dropped.append(f"endless: {heard and heard.body[-300:]!r}")
        line.close()

    async def _unread(self) -> Line:
        line = await connect(self.live.port)
        body = {"model": "chaos:endless", "messages": [{"role": "user", "content": "go"}], "stream": True}
        line.send(call(ADMIN_KEY, body))
        await line.begun(1)
        line.pause()
        return line

    async def _knocks(self) -> None:
        """A short call every few milliseconds, each on a new connection, until three have been refused."""
        before = len(self.seen.refusals)
        async with asyncio.TaskGroup() as group:
            while len(self.seen.refusals) < before + 3:
                group.create_task(self._knock())
                await asyncio.sleep(0.01)

    async def _knock(self) -> None:
        seen, began = self.seen, time.monotonic()
        try:
            line = await connect(self.live.port)
        except OSError:
            seen.refusals.append(time.monotonic() - began)
            return
        heard = await self._short(line)
        line.close()
        if heard is None:
            seen.lost += 1
        elif heard.status == 503:
            seen.refusals.append(time.monotonic() - began)
        elif self.told_at:
            self.late = max(self.late, began - self.told_at)


def stop_again_and_again(
    folder: Path, rounds: int, streams: int, seed: int, grace_s: float = GRACE_S
) -> dict[str, Any]:
    stamped, seen, rng = stamp(), Seen(), random.Random(seed)
    with upstreams(FAULTY, seed, "--tokens", str(TOKENS), "--rate", "15") as ups:
        config = settings(folder / "home", ups, keep_s=2.0, grace_s=grace_s)
        for number in range(1, rounds + 1):
            with serving(folder / "home", config) as live:
                uvloop.run(Round(live, seen, streams, rng, beyond=number % 10 == 0 or rounds < 3).run())
            live.log_path.unlink()  # `wait_ready` would read it all again
            if number % 5 == 0:
                print(f"{number} rounds: {seen.finished} finished, {len(seen.dropped)} dropped; accepted until "
                      f"{max(seen.accepted_until):.3f} s after the signal, exit {max(seen.exits):.2f} s",
                      file=sys.stderr, flush=True)  # fmt: skip
        faults = sum(sum(up.stats()["faults"].values()) for up in ups)
    return {
        "proof": "R3 stops", **stamped, "rounds": rounds, "streams": rounds * streams, "finished": seen.finished,
        "dropped": len(seen.dropped), "examples": seen.dropped[:3], "ended_at_grace": seen.ended, "faults": faults,
        "grace_s": grace_s, "exit_most_s": round(max(seen.exits), 2), "bad_exits": sum(map(bool, seen.codes)),
        "exit_after_last_stream_p50_s": round(quantile(seen.after_last, 0.5), 3),
        "accepted_until_p50_ms": round(quantile(seen.accepted_until, 0.5) * 1000, 1),
        "accepted_until_p99_ms": round(quantile(seen.accepted_until, 0.99) * 1000, 1),
        "accepted_until_most_ms": round(max(seen.accepted_until) * 1000, 1),
        "refusal_most_ms": round(max(seen.refusals) * 1000, 1), "unseen": seen.lost,
        "idle_closed_most_ms": round(max(seen.closed_after) * 1000, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak.stops", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line = stop_again_and_again(Path(folder), given.rounds, given.streams, given.seed)
    print(json.dumps(line))
    return 1 if line["dropped"] or line["bad_exits"] or line["exit_most_s"] > GRACE_S + 1 else 0


if __name__ == "__main__":
    sys.exit(main())
