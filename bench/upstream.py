"""A model server that costs little and answers the same every time, in its own process.

    python -m bench.upstream            # prints {"port": N} on its first line

The model's name says what a stream does: `mock-CHUNKS-GAP` sends CHUNKS chunks, one every GAP milliseconds, or one per
turn of the event loop where GAP is 0 (so that each leaves in a packet of its own). Every chunk carries the nanosecond
of the monotonic clock at which it was written, as `TS~%016x~`. What does not stream gets one JSON answer.
"""

import asyncio
import json
import time
from typing import cast

import uvloop

STAMP = b"TS~"
STAMP_BYTES = len(STAMP) + 17
_HEAD_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_HEAD_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_IDENTITY = {"id": "chatcmpl-bench", "created": 1_700_000_000, "model": "mock"}
_USAGE = {"prompt_tokens": 190, "completion_tokens": 64, "total_tokens": 254}


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _answer() -> bytes:
    text = "The text says that a gate stands where water leaves the river; it lets in, it measures, it shuts. " * 3
    choice = {"index": 0, "message": {"role": "assistant", "content": text.strip()}, "finish_reason": "stop"}
    body = _compact({**_IDENTITY, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    return _HEAD_JSON % (len(body), body)


def _frame(data: bytes) -> bytes:
    """One event as one piece of a chunked body."""
    event = b"data: %b\n\n" % data
    return b"%x\r\n%b\r\n" % (len(event), event)


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _frame(_compact({**_IDENTITY, "object": "chat.completion.chunk", "choices": [choice]}))


ANSWER = _answer()
_BEFORE, _AFTER = _chunk({"content": f"{STAMP.decode()}{0:016x}~ and lets in"}).split(b"%016x" % 0)
LAST = (
    _chunk({}, "stop")
    + _frame(_compact({**_IDENTITY, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE}))
    + _frame(b"[DONE]")
    + b"0\r\n\r\n"
)
MODELS = _compact({"object": "list", "data": [{"id": "mock", "object": "model", "created": 0, "owned_by": "bench"}]})


class Upstream(asyncio.Protocol):
    """One connection; one request at a time, as every gateway sends them."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._left = 0
        self._gap = 0.0
        self._due = 0.0
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast("asyncio.Transport", transport).write
        self._open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False

    def data_received(self, data: bytes) -> None:
        if self._held:
            data = self._held + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) - end - 4 < _length(data, end):
            self._held = data
            return
        self._held = b""
        if data.startswith(b"GET "):
            self._write(_HEAD_JSON % (len(MODELS), MODELS))
        elif data.find(b'"stream":true', end) < 0:
            self._write(ANSWER)
        else:
            self._stream(data, end)

    def _stream(self, data: bytes, end: int) -> None:
        start = data.index(b'"model":"mock-', end) + 14
        chunks, gap = data[start : data.index(b'"', start)].split(b"-")
        self._left, self._gap = int(chunks), int(gap) / 1000
        self._due = self._loop.time()
        self._write(_HEAD_STREAM)
        self._next()

    def _next(self) -> None:
        if not self._open:
            return
        if self._left == 0:
            self._write(LAST)
            return
        self._left -= 1
        self._write(b"%b%016x%b" % (_BEFORE, time.monotonic_ns(), _AFTER))
        if self._gap:
            self._due += self._gap
            self._loop.call_at(self._due, self._next)
        else:
            self._loop.call_soon(self._next)


def _length(data: bytes, end: int) -> int:
    at = data[:end].lower().find(b"\r\ncontent-length:")
    if at < 0:
        return 0
    stop = data.find(b"\r", at + 17)
    return int(data[at + 17 : stop])


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
