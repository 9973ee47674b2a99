"""A model server for tests, in its own process: OpenAI's dialect over raw sockets, so that it can misbehave.

    python -m tests.upstream.server --port 0        # prints {"port": N} on its first line

The model's name says what it does: one of `tests/upstream/behaviours.py`, with options, such as `ok:tokens=50,ms=10`.
`GET /stats` counts requests (open, finished, cancelled by the client), connections and bytes. `GET /last` shows the
last POST.
"""

import argparse
import asyncio
import contextlib
import json
import ssl
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.upstream.behaviours import behaviour
from tests.upstream.exchange import Exchange

TLS = Path(__file__).parent / "tls"


@dataclass
class Stats:
    requests: int = 0
    open: int = 0
    finished: int = 0
    cancelled: int = 0
    connections: int = 0
    accepted: int = 0
    sent: int = 0
    last: dict[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "last"}


class Server:
    def __init__(self, models: list[str], headers: dict[str, str]) -> None:
        self.stats = Stats()
        self.models = models
        self.headers = headers

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.stats.connections += 1
        self.stats.accepted += 1
        used = False
        try:
            while await self.one(reader, writer, used):
                used = True
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.stats.connections -= 1
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, used: bool) -> bool:
        """Answers one request; False when the connection is done."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        method, path, _ = line.split(" ")
        headers = dict(header.lower().split(": ", 1) for header in rest if header)
        raw = [header.split(": ", 1) for header in rest if header]
        exchange = Exchange(writer, self.stats, {})
        exchange.used = used
        if method == "GET":
            return await self.get(exchange, path)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.stats.requests += 1
        self.stats.last = {"method": method, "path": path, "headers": raw, "body": body.decode()}
        try:
            exchange.request = json.loads(body)
        except ValueError:
            await exchange.json({"error": {"message": "not JSON", "type": "invalid_request_error"}}, status=400)
            return True
        exchange.path = path.partition("?")[0]
        return await self.answer(exchange, reader)

    async def get(self, exchange: Exchange, path: str) -> bool:
        if path == "/stats":
            await exchange.json(self.stats.counts())
        elif path == "/last":
            await exchange.json(self.stats.last)
        elif path.partition("?")[0].endswith("/models") and self.models:
            entries = [{"id": name, "object": "model", "created": 1, "owned_by": "upstream"} for name in self.models]
            await exchange.json({"object": "list", "data": entries}, headers=self.headers)
        elif path == "/health":
            await exchange.json({})
        else:
            await exchange.json({"detail": "Not Found"}, status=404)
        return True

    async def answer(self, exchange: Exchange, reader: asyncio.StreamReader) -> bool:
        """Runs the behaviour, and watches for the client to leave meanwhile."""
        stats = self.stats
        stats.open += 1
        work = asyncio.ensure_future(behaviour(exchange))
        watch = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                again = work.result()
                stats.finished += 1
                return again
            stats.cancelled += 1
            return False
        except ConnectionError:
            stats.cancelled += 1
            return False
        finally:
            stats.open -= 1
            for task in (work, watch):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await task


async def serve(port: int, logic: Server, tls: bool) -> None:
    context = None
    if tls:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(TLS / "cert.pem", TLS / "key.pem")
    server = await asyncio.start_server(logic.connection, "127.0.0.1", port, backlog=2048, limit=2**22, ssl=context)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    # ends with its parent: the pipe to stdin closes
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.upstream.server", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--models", default="ok,other", help="comma separated; empty: no list of models")
    parser.add_argument("--headers", default="{}", help="JSON: headers of the list of models")
    parser.add_argument("--tls", action="store_true", help="with the certificate in tests/upstream/tls")
    given = parser.parse_args()
    logic = Server([name for name in given.models.split(",") if name], json.loads(given.headers))
    asyncio.run(serve(given.port, logic, given.tls))


if __name__ == "__main__":
    main()
