"""A caller on a raw connection: what came, to the byte, and what a client makes of it."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.upstream.chaos import Heard, post

MOST = 1 << 25
"""Bytes that a caller reads before it leaves."""


async def speak(
    port: int,
    key: str,
    body: Any,
    headers: dict[str, str] | None = None,
    *,
    path: str = "/v1/chat/completions",
    most: int = MOST,
) -> Heard:
    """One call on a connection of its own, read to its end, or to `most` bytes (`end` is then `open`)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    given = {"authorization": f"Bearer {key}", "content-type": "application/json"} | (headers or {})
    try:
        writer.write(post(body, path, given))
        await writer.drain()
        data, end = bytearray(), "open"
        try:
            while len(data) < most:
                part = await reader.read(1 << 18)
                if not part:
                    end = "fin"
                    break
                data += part
        except ConnectionError:
            end = "rst"
        return Heard(bytes(data), end)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def body_of(heard: Heard) -> bytes:
    """As `Heard.body`, in time that grows with the body alone: it may be one of many megabytes."""
    if b"transfer-encoding: chunked" not in heard.head:
        return heard.rest
    data, out, place = heard.rest, [], 0
    while (end := data.find(b"\r\n", place)) >= 0 and (length := int(data[place:end], 16)) > 0:
        out.append(data[end + 2 : end + 2 + length])
        place = end + length + 4
    return b"".join(out)


@dataclass
class Choice:
    """One choice, put together as a client does it."""

    text: str = ""
    refusal: str = ""
    calls: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    """By position: id, name, arguments."""
    roles: int = 0
    finishes: list[str] = field(default_factory=list)

    def take(self, piece: dict[str, Any], finish: str | None) -> None:
        self.text += piece.get("content") or piece.get("text") or ""
        self.refusal += piece.get("refusal") or ""
        self.roles += "role" in piece
        for number, call in enumerate(piece.get("tool_calls") or ()):
            place = call.get("index", number)
            name, tool, arguments = self.calls.get(place, ("", "", ""))
            inner = call["function"]
            self.calls[place] = (
                name + (call.get("id") or ""),
                tool + (inner.get("name") or ""),
                arguments + (inner.get("arguments") or ""),
            )
        if finish is not None:
            self.finishes.append(finish)


@dataclass
class Told:
    """What a caller was told."""

    status: int
    headers: dict[str, str]
    choices: dict[int, Choice] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    """The error, as body or as a frame."""
    done: bool = False
    """`[DONE]`, or the body of a whole answer."""
    behind: int = 0
    """Frames after `[DONE]` or after the error."""
    left: bool = False
    """The caller had enough before the end."""
    usage: list[dict[str, Any]] = field(default_factory=list)
    names: set[tuple[str, int, str]] = field(default_factory=set)
    """Id, time and model, as the frames say them."""
    ids: list[str] = field(default_factory=list)
    """The frames' `id:` lines."""
    frames: list[bytes] = field(default_factory=list)
    """The frames as they came."""

    @property
    def call_id(self) -> str:
        return self.headers["x-request-id"]

    @property
    def text(self) -> str:
        return self.choices[0].text if 0 in self.choices else ""

    @property
    def code(self) -> str | None:
        """The error's code, or what says the most."""
        return None if self.error is None else self.error["code"] or self.error["type"]

    @property
    def attempts(self) -> int:
        """As the header says it at the answer's beginning."""
        return int(self.headers.get("x-headgate-attempts", "1"))

    def frame(self, value: dict[str, Any]) -> None:
        if "error" in value:
            self.error = value["error"]
            return
        self.names.add((value["id"], value["created"], value["model"]))
        if value.get("usage") is not None:
            self.usage.append(value["usage"])
        for choice in value["choices"]:
            piece = choice.get("delta", choice.get("message", choice))
            self.choices.setdefault(choice["index"], Choice()).take(piece, choice.get("finish_reason"))


def told(heard: Heard) -> Told:
    """Raises `ValueError` or `KeyError` where it is not of OpenAI's shape."""
    lines = heard.head.decode("latin-1").split("\r\n")[1:]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    found = Told(heard.status, headers, left=heard.end == "open")
    body = body_of(heard)
    if not headers["content-type"].startswith("text/event-stream"):
        if not found.left:
            found.frame(json.loads(body))
            found.done = found.error is None
        return found
    for event in body.split(b"\n\n")[:-1]:
        for line in event.split(b"\n"):
            name, _, value = line.partition(b": ")
            if name == b"id":
                found.ids.append(value.decode())
            elif name == b"data":
                found.frames.append(event)
                found.behind += found.done or found.error is not None
                if value == b"[DONE]":
                    found.done = True
                else:
                    found.frame(json.loads(value))
            else:
                assert line.startswith(b":"), line
    return found
