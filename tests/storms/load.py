"""Open-loop load: calls leave on a fixed schedule, whatever becomes of those before, and every answer is checked.

Times count from the moment a call was due, so that a stall is not hidden by calls that could not leave in it.
"""

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tests.load.client import request
from tests.upstream.chaos import said

TOKENS = 20
"""Words of every answer."""
PATIENCE_S = 60.0
"""A call that has not ended by then hangs."""
AGAIN = frozenset({408, 409, 429, *range(500, 600)})
"""Statuses after which official SDKs try again, unless `x-should-retry` says otherwise."""
Result = Literal["right", "wrong", "error", "unshaped"]
"""`wrong`: it looks complete and is not the answer. `error`: refused or ended as the contract says. `unshaped`:
anything else: cut without a word, no JSON, no `error` object, or still open after `PATIENCE_S`."""


@dataclass(slots=True)
class Heard:
    """What became of one call. Seconds count from the schedule's beginning."""

    marker: str
    due_s: float
    stream: bool
    result: Result = "unshaped"
    first_s: float | None = None
    """When the first word was here."""
    done_s: float = 0.0
    status: int = 0
    code: str = ""
    replica: str = ""
    """Who answered, by the head."""
    again: bool = False
    """Whether an official SDK would try again."""
    retry_after_s: float = 0.0
    """What it would wait, where it was told."""
    why: str = ""

    @property
    def wait_s(self) -> float | None:
        """To the first word, from when the call was due."""
        return None if self.first_s is None else self.first_s - self.due_s


@dataclass(frozen=True, slots=True)
class Source:
    """Whom to ask, and for what."""

    port: int
    key: str
    prefix: str = "call"
    """Of the markers: they are unique in a run."""
    model: str = "chaos"
    whole_every: int = 4
    """Every so many-th call is no stream; 0: all are streams."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Added to each body."""


def messages(marker: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"Tell me of rivers, {marker}, if you please."}]


async def storm(
    source: Source, rate: float, seconds: float, numbers: "itertools.count[int] | None" = None
) -> list[Heard]:
    """`rate` calls a second for so long; returns once the last has ended."""
    numbers = numbers or itertools.count()
    began = time.monotonic()
    calls = []
    async with asyncio.TaskGroup() as group:
        for turn in range(round(rate * seconds)):
            due = turn / rate
            await asyncio.sleep(began + due - time.monotonic())
            calls.append(group.create_task(ask(source, next(numbers), due, began)))
    return [call.result() for call in calls]


async def ask(
    source: Source, number: int, due_s: float, began: float, headers: Mapping[str, str] | None = None
) -> Heard:
    """One call; never raises for what the server does."""
    stream = not source.whole_every or number % source.whole_every != 0
    heard = Heard(f"marker-{source.prefix}-{number}", due_s, stream)
    try:
        async with asyncio.timeout(PATIENCE_S):
            await _ask(source, heard, began, headers or {})
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        heard.why = heard.why or f"{type(error).__name__}: {error}"
    except (ValueError, LookupError, TypeError, msgspec.DecodeError) as error:
        heard.why = f"no such answer: {type(error).__name__}: {error}"
    heard.done_s = time.monotonic() - began
    return heard


async def _ask(source: Source, heard: Heard, began: float, headers: Mapping[str, str]) -> None:
    body: dict[str, Any] = {"model": source.model, "messages": messages(heard.marker), "user": heard.marker}
    body |= {**source.fields, "stream": heard.stream}
    sent = request(source.key, body)
    more = "".join(f"{name}: {value}\r\n" for name, value in {"connection": "close", **headers}.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", source.port)
    try:
        writer.write(sent.replace(b"\r\n", b"\r\n" + more.encode(), 1))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        got = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        heard.status = int(head[0].split(" ")[1])
        heard.replica = got.get("x-headgate-replica", got.get("x-headgate-backend", ""))
        data = await _read(reader, heard, began)
    finally:
        writer.close()
    _judge(heard, _dechunked(data) if "chunked" in got.get("transfer-encoding", "") else data, got)


async def _read(reader: asyncio.StreamReader, heard: Heard, began: float) -> bytes:
    """All until the connection ends; notes when the first word came: every answer begins with its marker."""
    data = bytearray()
    mark = b'"content":"' + heard.marker.encode()
    while piece := await reader.read(1 << 16):
        data += piece
        if heard.first_s is None and mark in data:
            heard.first_s = time.monotonic() - began
    return bytes(data)


def _dechunked(data: bytes) -> bytes:
    """Raises `ValueError` where the body was cut."""
    out = bytearray()
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            raise ValueError("the body was cut")
        length = int(size, 16)
        if length == 0:
            return bytes(out)
        if len(data) < length + 2:
            raise ValueError("the body was cut")
        out += data[:length]
        data = data[length + 2 :]


def _judge(heard: Heard, data: bytes, headers: Mapping[str, str]) -> None:
    if heard.status != 200:
        told = headers.get("x-should-retry", "")
        heard.again = told == "true" or (told != "false" and heard.status in AGAIN)
        heard.retry_after_s = min(60.0, float(headers.get("retry-after", "0")))
        return _error(heard, msgspec.json.decode(data))
    if not heard.stream:
        if len(data) != int(headers["content-length"]):
            raise ValueError(f"{len(data)} of {headers['content-length']} bytes: {data[-200:]!r}")
        choice = msgspec.json.decode(data)["choices"][0]
        return _compare(heard, choice["message"]["content"], choice["finish_reason"])
    text, finish = "", None
    events = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event.startswith(b"data: ")]
    for event in events:
        if event == b"[DONE]":
            break
        told = msgspec.json.decode(event)
        if "error" in told:
            return _error(heard, told)
        for choice in told["choices"]:
            text += choice["delta"].get("content") or ""
            finish = choice["finish_reason"] or finish
    if events[-1] != b"[DONE]" or events.count(b"[DONE]") != 1:
        raise ValueError("no [DONE] at the end")
    return _compare(heard, text, finish)


def _error(heard: Heard, told: Any) -> None:
    error = told["error"]
    if not (isinstance(error["message"], str) and isinstance(error["type"], str) and "code" in error):
        raise ValueError(f"no shape of an error: {told}")
    heard.result, heard.code, heard.why = "error", str(error["code"]), error["message"]


def _compare(heard: Heard, text: str, finish: str | None) -> None:
    good = text == said(messages(heard.marker), tokens=TOKENS) and finish == "stop"
    heard.result = "right" if good else "wrong"
    if not good:
        heard.why = f"{finish}: {text!r}"
