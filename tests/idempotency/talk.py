"""Calls with a key, as bytes: what was sent, and every byte that came back."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any

from tests.live import ADMIN_KEY

PATIENCE_S = 60.0


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str | None:
        code: str | None = json.loads(self.body)["error"]["code"]
        return code

    @property
    def replay(self) -> str | None:
        return self.headers.get("x-headgate-idempotent-replay")


def chat(text: str, model: str = "ok", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def message(
    body: dict[str, Any],
    key: str | None,
    path: str = "/v1/chat/completions",
    credential: str = ADMIN_KEY,
    **headers: str,
) -> bytes:
    data = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: test", f"authorization: Bearer {credential}"]
    lines += ["content-type: application/json", f"content-length: {len(data)}", "connection: close"]
    if key is not None:
        lines.append(f"idempotency-key: {key}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


async def send(port: int, data: bytes) -> Got:
    """Raises `OSError` or `EOFError` (`IncompleteReadError` is one) where the server is gone or goes."""
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(data)
            await writer.drain()
            return await _read(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Got:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in head[1:] if line)
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
    return Got(int(head[0].split(" ")[1]), headers, body)


def ask(port: int, body: dict[str, Any], key: str | None, **headers: str) -> Got:
    """One call, blocking."""
    return asyncio.run(send(port, message(body, key, **headers)))


async def leave(port: int, data: bytes, after_bytes: int) -> None:
    """Sends, hears so many bytes of the answer (negative: does not even wait for the server to read), and leaves."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    if after_bytes > 0:
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(asyncio.IncompleteReadError):
                await reader.readexactly(after_bytes)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def together(ports: list[int], data: bytes) -> list[Got]:
    """The same bytes to all ports at once."""
    return await asyncio.gather(*(send(port, data) for port in ports))
