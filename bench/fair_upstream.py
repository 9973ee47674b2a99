"""A model server of limited capacity, in its own process: so many streams at once, the others in line.

    python -m bench.fair_upstream 10 0.5     # ten at once, half a second each; prints {"port": N}

`POST /slots/N` changes the capacity. A stream's first piece comes after a tenth of the service.
"""

import asyncio
import json
import sys

from bench.fair_model import BEGIN, Pool

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
_MODELS = json.dumps({"object": "list", "data": [{"id": "mock", "object": "model", "created": 0, "owned_by": "bench"}]})


def _frame(**fields: object) -> bytes:
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock", "choices": [], **fields}
    event = b"data: %b\n\n" % json.dumps(chunk).encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


_FIRST = _frame(choices=[{"index": 0, "delta": {"role": "assistant", "content": "It lets in"}, "finish_reason": None}])
_LAST = (
    _frame(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _frame(usage={"prompt_tokens": 10, "completion_tokens": 90, "total_tokens": 100})
    + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
)


async def _answer(pool: Pool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        start, *lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines if line)
        await reader.readexactly(int(fields.get("content-length", "0")))
        path = start.split(" ")[1]
        if path.startswith("/slots/"):
            pool.slots = int(path.removeprefix("/slots/"))
        if not path.endswith("/chat/completions"):
            writer.write(_JSON % (len(_MODELS), _MODELS.encode()))
            continue
        await pool.begin()
        try:
            await asyncio.sleep(BEGIN * pool.service_s)
            writer.write(_HEAD + _FIRST)
            await asyncio.sleep((1 - BEGIN) * pool.service_s)
            writer.write(_LAST)
            await writer.drain()
        finally:
            pool.end()


async def main(slots: int, service_s: float) -> None:
    pool = Pool(slots, service_s)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _answer(pool, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway is done with this connection
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
