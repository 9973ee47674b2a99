"""A client for many streams at once: plain sockets on asyncio, so that it costs little beside what it measures."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.upstream.exchange import Exchange, chunks

READ_LIMIT = 2**16


class Refused(Exception):
    """The server answered with an error, or did not answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"{status}: {body[:300]!r}")
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self) -> str | None:
        code: str | None = json.loads(self.body)["error"]["code"]
        return code


class Answered:
    """An answer whose head is here; its body is read by whoever wants it."""

    def __init__(self, status: int, headers: dict[str, str], reader: asyncio.StreamReader) -> None:
        self.status = status
        self.headers = headers
        self.reader = reader

    @property
    def request_id(self) -> str:
        return self.headers["x-request-id"]

    async def piece(self) -> bytes:
        """One chunk of the body; empty at its proper end. A cut raises `IncompleteReadError`."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> bytes:
        if "content-length" in self.headers:
            return await self.reader.readexactly(int(self.headers["content-length"]))
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)


def request(key: str, body: dict[str, Any], path: str = "/v1/chat/completions") -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


@asynccontextmanager
async def ask(
    port: int, key: str, body: dict[str, Any], *, receive_buffer: int | None = None
) -> AsyncIterator[Answered]:
    """Sends one call on a connection of its own; leaving the block closes it, whatever is still to come."""
    peer = socket.socket()
    peer.setblocking(False)
    if receive_buffer is not None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(peer, ("127.0.0.1", port))
    except BaseException:
        peer.close()
        raise
    reader, writer = await asyncio.open_connection(sock=peer, limit=READ_LIMIT)
    try:
        writer.write(request(key, body))
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        answered = Answered(int(head[0].split(" ")[1]), headers, reader)
        if answered.status != 200:
            raise Refused(answered.status, headers, await answered.body())
        yield answered
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def chat(model: str, text: str, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def told_by_upstream(body: dict[str, Any]) -> bytes:
    """The stream that the fake upstream gives for this body, byte for byte."""
    nobody: Any = None
    exchange = Exchange(nobody, nobody, body)
    _, _, options = body["model"].partition(":")
    exchange.options = dict(option.split("=", 1) for option in options.split(",") if "=" in option)
    return b"".join(b"data: " + data + b"\n\n" for data in chunks(exchange))
