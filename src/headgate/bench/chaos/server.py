"""The chaos upstream: an honest model server, and the faults it was ordered."""

import asyncio
import random
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headgate.bench.chaos import acts
from headgate.bench.chaos.answer import answer
from headgate.bench.chaos.asked import DIALECTS, PREFILL, Unfit, read
from headgate.bench.chaos.connection import Connection, Writing
from headgate.bench.chaos.control import Control
from headgate.bench.chaos.fault import Act, Exchange, Order
from headgate.bench.chaos.faults import parse
from headgate.bench.chaos.listener import Listener
from headgate.bench.chaos.request import Request
from headgate.bench.chaos.schedule import Schedule
from headgate.bench.chaos.script import Script, honest, plain, refusal
from headgate.bench.chaos.stats import Stats
from headgate.core.clock import Clock
from headgate.core.tasks import Tasks

_AT_ONCE = 1 << 18
"""Bytes of an answer that are written without looking whether there is room."""
_NOTHING = Order(None, {})
_ORDERS = 4096
"""Orders kept as read."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How an honest answer is made where the request says nothing."""

    models: tuple[str, ...] = ("chaos",)
    prefill: str = "ignore"
    options: Mapping[str, str] = field(default_factory=dict)
    """As in an order: `tokens`, `rate`, `first_ms`, `salt`."""
    deaf: bool = False
    """Requests order nothing; the schedule still does."""


class ChaosServer:
    """Serves on one port until `close`. Two servers with the same tuning give the same answers."""

    def __init__(self, clock: Clock, rng: random.Random, tuning: Tuning, tls: ssl.SSLContext | None = None) -> None:
        self.clock = clock
        self.rng = rng
        self.tuning = tuning
        self.stats = Stats()
        self.schedule = Schedule()
        self.tasks = Tasks(limit=100_000)
        self.listener = Listener(lambda: Connection(self), clock, self.tasks, tls)
        self.connections: set[Connection] = set()
        self._control = Control(self.stats, self.schedule, clock, tuning.models, self.refuse)
        self._orders: dict[str, Order] = {}

    async def open(self, host: str, port: int) -> int:
        """Returns the port."""
        await self.listener.open(host, port)
        return self.listener.port

    async def close(self) -> None:
        self.listener.close()
        for connection in list(self.connections):
            connection.transport.abort()
        await self.tasks.aclose()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self.tasks.spawn(work)

    def refuse(self, seconds: float) -> None:
        self.listener.refuse(seconds)
        for connection in list(self.connections):
            if not connection.busy:
                connection.transport.close()

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.stats.connections += 1
        self.stats.accepted += 1

    def closed(self, connection: Connection, *, busy: bool) -> None:
        self.connections.discard(connection)
        self.stats.connections -= 1
        if busy and connection.counted:
            connection.counted = False
            self.stats.open -= 1
            self.stats.cancelled += 1

    def hello(self, connection: Connection) -> None:
        order = self.schedule.strike(self.clock.monotonic()) or parse("tls")
        if order.fault is None or order.fault.name != "tls":
            order = parse("tls")
        self.stats.faults["tls"] += 1
        connection.run(acts.tls(Writing(connection, self, plain({}), order, self.rng), order))

    def answer(self, connection: Connection, request: Request) -> None:
        dialect = DIALECTS.get(request.path) or DIALECTS.get("/v1" + request.path)
        if dialect is not None and request.method == "POST":
            return self._call(connection, request, dialect)
        if request.path.startswith("/chaos"):
            script = self._control.orders(request)
            return connection.finish(script.wire(), keep=request.keep)
        self.stats.probes += 1
        order = self.schedule.strike(self.clock.monotonic(), probe=True) or _NOTHING
        return self._deliver(connection, request, self._control.probe(request), order)

    def _call(self, connection: Connection, request: Request, dialect: str) -> None:
        self.stats.began()
        connection.counted = True
        self.stats.last = {"path": request.path, "headers": request.headers, "body": request.body}
        try:
            body = msgspec.json.decode(request.body)
            order = self._order(request, body)
            prefill = order.word("prefill", self.tuning.prefill)
            if prefill not in PREFILL:
                raise Unfit(f"prefill: {prefill!r} is not one of {', '.join(PREFILL)}")
            asked = read(body, dialect, prefill)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError, Unfit) as error:
            self.stats.refused += 1
            script = refusal(str(error), 400, dialect)
            return self._deliver(connection, request, script, _NOTHING)
        if asked.marker:
            self.stats.marked(asked.marker)
        made = answer(asked, order.options)
        self.stats.prompt_tokens += made.prompt_tokens
        self.stats.completion_tokens += made.completion_tokens
        framed = honest(made, asked, close_framed=order.options.get("framing") == "close")
        return self._deliver(connection, request, framed, order)

    def _order(self, request: Request, body: Any) -> Order:
        """The request's own order, else the schedule's; the server's options fill what it leaves open."""
        text = "" if self.tuning.deaf else request.headers.get("x-chaos", "")
        if not text and not self.tuning.deaf and isinstance(body, dict):
            model = body.get("model")
            if isinstance(model, str) and model.startswith("chaos:"):
                text = model.removeprefix("chaos:")
        if text:
            order = self._orders.get(text)
            if order is None:
                order = parse(text)
                if len(self._orders) < _ORDERS:
                    self._orders[text] = order
        else:
            order = self.schedule.strike(self.clock.monotonic()) or _NOTHING
        if not self.tuning.options:
            return order
        return Order(order.fault, {**self.tuning.options, **order.options}, order.text)

    def _deliver(self, connection: Connection, request: Request, script: Script, order: Order) -> None:
        act = None
        if (fault := order.fault) is not None:
            self.stats.faults[fault.name] += 1
            act = fault.act
            if fault.shape is not None:
                script = fault.shape(script, order)
        if act is None:
            if "rate" not in order.options and "first_ms" not in order.options:
                wire = script.wire()
                if len(wire) <= _AT_ONCE:
                    self._ended(connection)
                    return connection.finish(wire, keep=request.keep and not script.close_framed)
            act = acts.honest
        exchange = Writing(connection, self, script, order, self.rng)
        return connection.run(self._act(connection, act, exchange, order, request.keep))

    async def _act(self, connection: Connection, act: Act, exchange: Exchange, order: Order, keep: bool) -> bool:
        again = await act(exchange, order)
        self._ended(connection)
        return again and keep

    def _ended(self, connection: Connection) -> None:
        if connection.counted:
            connection.counted = False
            self.stats.open -= 1
            self.stats.finished += 1
