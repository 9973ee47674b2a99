"""One request to the fake upstream, and what the answers to it are made of."""

import asyncio
import json
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

Behaviour = Callable[["Exchange"], Awaitable[bool]]


class Exchange:
    """One request on its way to an answer."""

    def __init__(self, writer: asyncio.StreamWriter, stats: Any, request: dict[str, Any]) -> None:
        self.writer = writer
        self.stats = stats
        self.request = request
        self.path = ""
        self.used = False
        """The connection carried a request before this one."""
        self.options: dict[str, str] = {}

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        if self.request:  # answers only, not the counts themselves
            self.stats.sent += len(data)
        await self.writer.drain()

    async def head(self, status: int = 200, headers: dict[str, str] | None = None, framing: str = "chunked") -> None:
        lines = [f"HTTP/1.1 {status} Status"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if framing == "chunked":
            lines.append("transfer-encoding: chunked")
        elif framing != "none":
            lines.append(f"content-length: {framing}")
        await self.write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def piece(self, data: bytes) -> None:
        await self.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> bool:
        await self.write(b"0\r\n\r\n")
        return True

    async def body(
        self, data: bytes, kind: str = "application/json", status: int = 200, headers: dict[str, str] | None = None
    ) -> bool:
        await self.head(status, {"content-type": kind, **(headers or {})}, str(len(data)))
        await self.write(data)
        return True

    async def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> bool:
        return await self.body(json.dumps(value).encode(), status=status, headers=headers)

    async def sse_head(self) -> None:
        await self.head(200, {"content-type": "text/event-stream"})

    def reset(self) -> None:
        peer = self.writer.get_extra_info("socket")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def number(self, name: str, default: int) -> int:
        return int(self.options.get(name, default))

    @property
    def streaming(self) -> bool:
        return bool(self.request.get("stream"))


def last_user_text(request: dict[str, Any]) -> str:
    for message in reversed(request.get("messages", [])):
        if message.get("role") == "user":
            content = message.get("content")
            return content if isinstance(content, str) else json.dumps(content)
    return str(request.get("prompt", ""))


def chunk(choices: list[dict[str, Any]], **more: Any) -> bytes:
    value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "up", "choices": choices}
    return json.dumps({**value, **more}, ensure_ascii=False, separators=(",", ":")).encode()


def delta(text: str, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    inner = {"content": text} if text or finish is None else {}
    return chunk([{"index": index, "delta": inner, "logprobs": None, "finish_reason": finish}], **more)


def words(exchange: Exchange) -> list[str]:
    count = exchange.number("tokens", 0)
    if count:
        return [f"t{number} " for number in range(count)]
    text = last_user_text(exchange.request) or "hello there"
    return [text[place : place + 3] for place in range(0, len(text), 3)]


USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def chunks(exchange: Exchange) -> list[bytes]:
    """The data of a good stream, `[DONE]` included."""
    asked = bool((exchange.request.get("stream_options") or {}).get("include_usage"))
    more: dict[str, Any] = {"usage": None} if asked else {}
    count = exchange.request.get("n") or 1
    out = [delta("", index, **more) for index in range(count)]
    out += [delta(word, index, **more) for word in words(exchange) for index in range(count)]
    out += [delta("", index, "stop", **more) for index in range(count)]
    if asked:
        out.append(chunk([], usage=USAGE))
    return [*out, b"[DONE]"]


def whole(exchange: Exchange, **more: Any) -> dict[str, Any]:
    text = "".join(words(exchange))
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "up", "choices": [choice]}
    return {**answer, "usage": USAGE, **more}


def honest_usage(request: dict[str, Any]) -> tuple[int, int]:
    """Prompt and answer tokens, the same for the same request: never more than was allowed."""
    text = last_user_text(request)
    most = request.get("max_tokens") or request.get("max_completion_tokens") or 10
    return 10 + len(text) // 6, 1 + zlib.crc32(text.encode()) % most
