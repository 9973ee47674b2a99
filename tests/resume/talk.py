"""A client of server-sent events that loses its connection where a test says so, and comes back."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

from tests.idempotency.talk import PATIENCE_S, chat, message
from tests.live import ADMIN_KEY

DONE = b"data: [DONE]\n\n"


@dataclass
class Part:
    """What one connection brought."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    frames: list[bytes] = field(default_factory=list)
    """The whole ones."""
    ended: bool = False
    """The server ended the answer; else we left."""

    @property
    def data(self) -> bytes:
        return b"".join(self.frames)


def post(body: dict[str, Any], last_id: str | None = None, credential: str = ADMIN_KEY, **headers: str) -> bytes:
    """A call that is to be resumable."""
    if last_id is not None:
        headers["last_event_id"] = last_id
    return message(body, None, credential=credential, **{"x_headgate_resumable": "true", **headers})


def streamed(text: str, model: str = "ok", **fields: Any) -> dict[str, Any]:
    return chat(text, model, stream=True, **fields)


def get(stream: str, last_id: str | None = None, credential: str = ADMIN_KEY) -> bytes:
    lines = [f"GET /v1/streams/{stream} HTTP/1.1", "host: test", f"authorization: Bearer {credential}"]
    lines += ["connection: close"] + ([f"last-event-id: {last_id}"] if last_id is not None else [])
    return "\r\n".join([*lines, "", ""]).encode()


async def take(port: int, data: bytes, cut: int | None = None) -> Part:
    """Sends, and reads the answer; leaves without a word once `cut` bytes of its body are there."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            part = Part(int(head[0].split(" ")[1]), headers)
            while cut is None or len(part.body) < cut:
                piece = await _piece(reader, headers)
                part.body += piece
                if not piece or "content-length" in headers:
                    part.ended = True
                    break
            if cut is not None and len(part.body) > cut:
                part.body, part.ended = part.body[:cut], False
            end = part.body.rfind(b"\n\n") + 2
            part.frames = [frame + b"\n\n" for frame in part.body[:end].split(b"\n\n")[:-1]] if end > 1 else []
            return part
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _piece(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:size]


def id_of(frame: bytes) -> str:
    line, _, _ = frame.partition(b"\n")
    assert line.startswith(b"id: "), frame
    return line[4:].decode()


def data_of(frames: list[bytes]) -> bytes:
    """The frames as they are without ids."""
    return b"".join(frame.partition(b"\n")[2] for frame in frames)
