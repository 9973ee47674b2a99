"""Callers of every kind, each with a marker of its own: what it is told must be its own, whole, and the same always."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from zlib import crc32

from headgate.bench.chaos.words import Voice
from tests.soak.house import TOKENS
from tests.soak.line import Heard, Line, call, connect, partial_body, text_of

KINDS = {
    "whole": 34, "stream": 24, "again": 10, "flight": 14, "resumed": 10, "idempotent": 4, "pipelined": 4,
}  # fmt: skip
"""What callers do, in parts of a hundred."""
TOGETHER = 4
"""Callers with one body, where identical calls fly together."""
LOST_MAX = 1_000
"""Findings that are kept; more are only counted."""


@dataclass(frozen=True)
class Ask:
    """One call, whatever its caller does then."""

    kind: str
    marker: str
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    @cached_property
    def expected(self) -> str:
        """What every undisturbed upstream says to it."""
        return Voice((("user", self.body["messages"][0]["content"]),), "", self.marker).text(TOKENS)


def asked(kind: str, number: int, rng: random.Random) -> Ask:
    model = "again" if kind == "again" else "goes-on"
    marker = f"marker-{kind[0]}{number}z"
    about = random.Random(marker) if kind == "flight" else rng  # those who share a marker ask the same
    text = f"{marker} " + "word " * about.randrange(20)
    stream = kind in {"stream", "resumed"} or about.random() < 0.5
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": text}], "user": marker}
    body |= {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    body |= {"temperature": 0} if kind == "flight" else {"seed": 7}
    headers = {"resumed": {"x-headgate-resumable": "true"}, "idempotent": {"idempotency-key": marker}}.get(kind, {})
    return Ask(kind, marker, body, headers)


@dataclass
class Told:
    """What callers were told."""

    count: Counter[str] = field(default_factory=Counter)
    """By outcome: whole, left, error, and what must not be: foreign, wrong, cut."""
    codes: Counter[str] = field(default_factory=Counter)
    """Of the errors."""
    finished: Counter[str] = field(default_factory=Counter)
    """Whole answers, by marker; only where they are to be kept."""
    findings: list[str] = field(default_factory=list)

    def find(self, outcome: str, ask: Ask, heard: bytes) -> None:
        self.count[outcome] += 1
        if len(self.findings) < LOST_MAX:
            self.findings.append(f"{outcome} {ask.kind} {ask.marker}: {heard[:2000]!r}")

    @property
    def amiss(self) -> dict[str, int]:
        return {name: self.count[name] for name in ("foreign", "wrong", "cut") if self.count[name]}


class Callers:
    """Calls with `keys`, on kept connections to one port. A part of them (`leaving`) leaves at a random moment."""

    def __init__(self, port: int, keys: list[str], seed: int, leaving: float, *, keep: bool = False) -> None:
        self._port = port
        self._keys = keys
        self._rng = random.Random(seed)
        self._leaving = leaving
        self._keep = keep
        self._kinds = list(KINDS)
        self._parts = list(KINDS.values())
        self._idle: list[Line] = []
        self.told = Told()
        self.latencies: list[float] = []
        self.prompts: dict[str, int] = {}
        """The tokens of each marker's prompt; only where they are to be kept."""
        self.opened = 0
        self._flights = 0
        self._from = 0

    def number_from(self, number: int) -> None:
        """Markers that no other callers had."""
        self._from = self._flights = number

    async def line(self) -> Line:
        """A kept connection, or a new one."""
        while self._idle:
            line = self._idle.pop()
            if line.open:
                return line
        self.opened += 1
        return await connect(self._port)

    def done(self, line: Line) -> None:
        if line.open:
            self._idle.append(line)

    async def one(self, number: int) -> None:
        """One call, or two for a kind that needs them."""
        rng = self._rng
        kind = rng.choices(self._kinds, self._parts)[0]
        if kind == "flight":
            self._flights += 1
            number = self._flights // TOGETHER
        else:
            number += self._from
        ask = asked(kind, number, rng)
        self._note(ask)
        key = self._keys[crc32(ask.marker.encode()) % len(self._keys)]
        line = await self.line()
        data = call(key, ask.body, ask.headers)
        if rng.random() < self._leaving:
            await self._leave(line, ask, data)
        elif kind == "resumed":
            await self._come_back(line, ask, key, data)
        elif kind == "pipelined":
            await self._two(line, ask, key, data, number)
        else:
            line.send(data)
            self.judge(ask, await self._answer(line, ask))
            if kind == "idempotent":
                await self._same_again(ask, data)
        self.done(line)

    def _note(self, ask: Ask) -> None:
        if self._keep:
            self.prompts[ask.marker] = len(ask.body["messages"][0]["content"].split()) + 3

    async def _leave(self, line: Line, ask: Ask, data: bytes) -> None:
        """Before its request is whole, at once, a moment later, or with some of the answer read."""
        rng = self._rng
        when = rng.random()
        line.send(data[: rng.randrange(len(data))] if when < 0.1 else data)
        if when < 0.6:
            await asyncio.sleep(rng.choice((0.0, 0.001, 0.01, 0.05)) * rng.random())
            seen = await line.begun(0)
        else:
            seen = await line.begun(rng.randrange(1, 1500) if ask.body.get("stream") else 1)
        line.close()
        self.told.count["left"] += 1
        self._own(ask, Heard(b"HTTP/1.1 200 OK\r\n", seen))

    async def _come_back(self, line: Line, ask: Ask, key: str, data: bytes) -> None:
        """Loses its connection in the middle, and asks for the rest on another."""
        line.send(data)
        seen = await line.begun(self._rng.randrange(200, 3000))
        line.close()
        first = partial_body(seen)
        whole, _, _ = first.rpartition(b"\n\n")
        if not seen.startswith(b"HTTP/1.1 200") or b"id: " not in whole:
            self.told.count["left"] += 1  # before it had an id to come back with
            return
        last = whole.rpartition(b"id: ")[2].partition(b"\n")[0].decode()
        other = await self.line()
        other.send(call(key, ask.body, {**ask.headers, "last-event-id": last}))
        heard = await self._answer(other, ask)
        if heard is not None and heard.status == 200:
            heard = Heard(heard.head, whole + b"\n\n" + heard.body)
        self.judge(ask, heard)
        self.done(other)

    async def _two(self, line: Line, ask: Ask, key: str, data: bytes, number: int) -> None:
        """The second is sent before the first is answered."""
        second = asked("pipelined", -number, self._rng)
        self._note(second)
        line.send(data + call(key, second.body, second.headers))
        self.judge(ask, await self._answer(line, ask))
        if line.open:
            self.judge(second, await self._answer(line, second))

    async def _same_again(self, ask: Ask, data: bytes) -> None:
        line = await self.line()
        line.send(data)
        heard = await self._answer(line, ask)
        self.judge(ask, heard, replayed=True)
        self.done(line)

    async def _answer(self, line: Line, ask: Ask) -> Heard | None:
        clock = asyncio.get_running_loop().time
        began = clock()
        heard = await line.answer()
        self.latencies.append(clock() - began)
        if len(self.latencies) > 200_000:
            del self.latencies[:100_000]
        if heard is None or heard.header("connection") == "close":
            line.close()
        return heard

    def _own(self, ask: Ask, heard: Heard) -> bool:
        """No marker but its own stands in it."""
        if heard.markers <= {ask.marker}:
            return True
        self.told.find("foreign", ask, heard.body)
        return False

    def judge(self, ask: Ask, heard: Heard | None, *, replayed: bool = False) -> None:
        """Counts what an answer was; None is one that did not end."""
        told = self.told
        if heard is None:
            told.find("cut", ask, b"")
        elif not self._own(ask, heard):
            return
        elif heard.complete and heard.text == ask.expected:
            told.count["replayed" if replayed else "whole"] += 1
            if self._keep and not replayed:
                told.finished[ask.marker] += 1
        elif heard.complete:
            told.find("wrong", ask, heard.body)
        elif b'"error"' in heard.body and ask.expected.startswith(text_of(heard.body)):
            told.count["error"] += 1
            told.codes[code_of(heard)] += 1
        else:
            told.find("wrong", ask, heard.body)

    def close(self) -> None:
        for line in self._idle:
            line.close()
        self._idle.clear()


def code_of(heard: Heard) -> str:
    _, _, rest = heard.body.rpartition(b'"code":')
    return f"{heard.status} {rest[:40].partition(b'}')[0].partition(b',')[0].decode()}"


def quantile(values: list[float], part: float) -> float:
    ordered = sorted(values) or [0.0]
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


async def closed_loop(callers: Callers, count: int, width: int, say: Callable[[int], None], until: float) -> int:
    """`count` calls, `width` at a time, or as many as are done at `until` (the loop's time). How many were made."""
    clock = asyncio.get_running_loop().time
    made = 0

    async def worker() -> None:
        nonlocal made
        while made < count and clock() < until:
            made += 1
            say(made)
            await callers.one(made)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(worker())
    callers.close()
    return made
