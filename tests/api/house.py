"""A real server over a small gateway of core types, and a client that speaks bytes."""

import asyncio
import json
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvloop

from headgate.api.build import build
from headgate.api.runs import Runs
from headgate.api.server import Server
from headgate.api.services import RefusedRequest, Services
from headgate.api.settings import ServerSettings
from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.errors import Forbidden, HeadgateError, NotFound, Unauthorized
from headgate.core.events import Event, Finish, Text
from headgate.core.ids import Ids
from headgate.core.ports import ModelInfo
from headgate.core.principal import Principal, Scope
from headgate.core.reply import Reply
from headgate.core.target import RouteTable
from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import UsageQuery, UsageRow
from headgate.ledger.accounts.story import Story, tell
from headgate.ledger.idempotency.ask import IdempotencySettings
from headgate.tenancy.keyring import CreatedKey, KeyRecord, KeySpec
from headgate.tenancy.records import Actor
from tests.api.invoices import Invoices
from tests.api.turns import Turns
from tests.resume.kept import kept_streams

KEY = "hg-user"
ADMIN = "hg-admin"
PATIENCE_S = 20.0

Item = Event | bytes | HeadgateError | Exception
Script = Callable[[Call], AsyncIterator[Event | bytes]]


class CountedReply(Reply):
    """Knows how often it was closed."""

    closes = 0

    async def aclose(self, reason: HeadgateError | None = None) -> None:
        self.closes += 1
        await super().aclose(reason)


class Gateway:
    """Answers with what the test put under the model's name: an error, a body, or the maker of a stream."""

    def __init__(self) -> None:
        self.answers: dict[str, HeadgateError | Exception | bytes | Script] = {}
        self.calls: list[Call] = []
        self.replies: list[CountedReply] = []
        self.cancelled = 0
        self.headers: list[tuple[bytes, bytes]] = []

    async def handle(self, call: Call) -> Reply:
        Auth().check(call.credential, "inference")
        self.calls.append(call)
        answer = self.answers.get(call.model)
        if answer is None:
            raise NotFound(f"The model '{call.model}' does not exist.", code="model_not_found", param="model")
        if isinstance(answer, Exception):
            raise answer
        reply = CountedReply()
        reply.headers.extend(self.headers)
        self.replies.append(reply)
        if isinstance(answer, bytes):
            reply.body = answer
        else:
            stream = self._watched(answer(call))
            reply.stream = stream
            reply.own(stream.aclose)
        return reply

    async def replay(self, call: Call) -> Reply:
        Auth().check(call.credential, "inference")
        reply = CountedReply()
        reply.headers.extend(self.headers)
        self.replies.append(reply)
        return reply

    async def _watched(self, stream: AsyncIterator[Event | bytes]) -> Any:
        try:
            async for item in stream:
                yield item
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def script(*items: Item) -> Script:
    """The items in order; errors are raised."""

    async def stream(_: Call) -> AsyncIterator[Event | bytes]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    return stream


def words(*texts: str) -> Script:
    return script(*(Text(text) for text in texts), Finish("stop"), Usage(input=3, output=2))


class Auth:
    def check(self, credential: str | None, scope: Scope) -> Principal:
        if credential not in {KEY, ADMIN}:
            raise Unauthorized("Incorrect API key provided. Create one with `headgate keys create`.")
        if scope == "admin" and credential != ADMIN:
            raise Forbidden("This key may not use admin endpoints.")
        return Principal(credential, "default", frozenset([scope]))


class Keys:
    def __init__(self) -> None:
        self.records: dict[str, KeyRecord] = {}

    async def create(self, spec: KeySpec, *, by: Actor) -> CreatedKey:
        name = f"key_{len(self.records)}"
        record = KeyRecord(
            name, "hg-abc", spec.name, spec.tenant, spec.scopes, spec.models, spec.limits, 1000.0, spec.expires_at
        )
        self.records[name] = record
        return CreatedKey(record, "hg-abc-whole-key")

    async def get(self, key_id: str) -> KeyRecord:
        if key_id not in self.records:
            raise NotFound("There is no such key.", code="key_not_found")
        return self.records[key_id]

    async def list(self) -> list[KeyRecord]:
        return list(self.records.values())

    async def revoke(self, key_id: str, by: Actor) -> KeyRecord:
        await self.get(key_id)
        return self.records.pop(key_id)


class Accounts:
    """Answers every question with the same rows and entries, a page an entry."""

    def __init__(self) -> None:
        self.queries: list[UsageQuery] = []
        self.rows: list[UsageRow] = []
        self.receipts: list[Receipt] = []
        self.cut: HeadgateError | None = None
        """What ends the entries before their end."""

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        self.queries.append(query)
        return self.rows[: query.limit]

    async def entries(self, query: UsageQuery) -> AsyncIterator[list[Receipt]]:
        self.queries.append(query)
        for receipt in self.receipts:
            yield [receipt]
        if self.cut is not None:
            raise self.cut

    async def story_of(self, call_id: str) -> Story:
        return tell(call_id, [receipt for receipt in self.receipts if receipt.call_id == call_id])


class House:
    """The server in a thread of its own; a context manager."""

    def __init__(self, **settings: Any) -> None:
        self.gateway = Gateway()
        self.gateway.answers["hello"] = words("Hel", "lo")
        self.keys = Keys()
        self.turns = Turns()
        self.idempotent: list[str] = []
        self.runs = Runs(self.turns, IdempotencySettings(answer_mb=0.125), self.idempotent.append)
        self.tenancy: Any = None
        self.switches: Any = None
        """Where a test asks the organization's endpoints, it brings these."""
        self.bugs: list[tuple[str, BaseException]] = []
        self.resumed: list[str] = []
        self.streams = kept_streams(self.bugs, self.resumed)
        self.refused: list[RefusedRequest] = []
        self.accounts = Accounts()
        self.invoices = Invoices()
        self.ready: tuple[bool, dict[str, object]] = (True, {"engine": "ok"})
        self.settings = ServerSettings(**{"port": 0, **settings})
        self.port = 0
        self.loop: asyncio.AbstractEventLoop
        self.server: Server
        self._started = threading.Event()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "House":
        self._thread.start()
        assert self._started.wait(PATIENCE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.server = build(self._services(), self.settings)
        self.port = await self.server.start()
        self._started.set()
        await self._stop.wait()
        await self.server.stop()
        await self.runs.aclose()
        await self.streams.aclose()

    def _services(self) -> Services:
        clock = SystemClock()
        return Services(
            gateway=self.gateway,
            auth=Auth(),
            routes=lambda: RouteTable(1, {}),
            visible_models=lambda _: [ModelInfo("hello", 5, "headgate"), ModelInfo("org/model", 6, "org")],
            keys=self.keys,
            switches=self.switches,
            runs=self.runs,
            streams=self.streams,
            tenancy=self.tenancy,
            accounts=self.accounts,
            invoices=self.invoices,
            ready=lambda: self.ready,
            metrics=lambda: (b"up 1\n", b"text/plain; version=0.0.4; charset=utf-8"),
            on_bug=lambda request_id, error: self.bugs.append((request_id, error)),
            on_refused=self.refused.append,
            clock=clock,
            ids=Ids(clock, random.Random(1)),
            version="9.9.9",
        )

    def connect(self) -> "Wire":
        return Wire(self.port)

    def ask(self, method: str, path: str, body: object = None, key: str | None = KEY, **headers: str) -> "Answer":
        with self.connect() as wire:
            wire.request(method, path, body, key, **headers)
            return wire.answer(method)

    def chat(self, model: str = "hello", key: str | None = KEY, **fields: Any) -> "Answer":
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        return self.ask("POST", "/v1/chat/completions", body, key)


class Answer:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = dict(headers)
        self.pairs = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        error = self.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def frames(self) -> list[str]:
        """The data of each frame of a stream."""
        assert self.body.endswith(b"\n\n")
        parts = self.body.decode().split("\n\n")[:-1]
        return [part.removeprefix("data: ") for part in parts if not part.startswith(":")]

    @property
    def chunks(self) -> list[Any]:
        """The JSON frames."""
        return [json.loads(frame) for frame in self.frames if frame != "[DONE]"]


class Wire:
    """A socket to the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._data = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(self, method: str, path: str, body: object = None, key: str | None = KEY, **headers: str) -> None:
        raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", "host: test"]
        if key is not None:
            lines.append(f"authorization: Bearer {key}")
        if body is not None:
            lines.append(f"content-length: {len(raw)}")
            if "content_type" not in headers:
                lines.append("content-type: application/json")
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + raw)

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self._data += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        """Everything up to and including `mark`; what is after it stays for the next read."""
        while mark not in self._data:
            if not self._more():
                raise EOFError(self._data)
        end = self._data.index(mark) + len(mark)
        found, self._data = self._data[:end], self._data[end:]
        return found

    def exactly(self, count: int) -> bytes:
        while len(self._data) < count:
            if not self._more():
                raise EOFError(self._data)
        found, self._data = self._data[:count], self._data[count:]
        return found

    def rest(self) -> bytes:
        """Until the server closes."""
        while self._more():
            pass
        found, self._data = self._data, b""
        return found

    def head(self) -> tuple[int, list[tuple[str, str]]]:
        lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")[:-2]
        pairs = [tuple(line.split(": ", 1)) for line in lines[1:]]
        return int(lines[0].split(" ")[1]), [(name, value) for name, value in pairs]

    def chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data

    def answer(self, method: str = "GET") -> Answer:
        status, pairs = self.head()
        headers = dict(pairs)
        body = b""
        if method == "HEAD" or status in {204, 304}:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while piece := self.chunk():
                body += piece
        else:
            body = self.exactly(int(headers["content-length"]))
        return Answer(status, pairs, body)


def eventually(check: Callable[[], bool]) -> None:
    """Polls until `check` holds."""
    end = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)
