"""Modelled replicas in virtual time: a prefix cache, prompts read one after another, answers written side by side.

A toy, and meant to be: it has what tells routing policies apart (queues and caches), and nothing of kernels or batches.
"""

import heapq
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.routing_trace import BLOCK_TOKENS, Request
from headgate.backends.balance.balancer import Balancer
from headgate.backends.balance.demand import Demand
from headgate.backends.balance.loads import Load
from headgate.backends.balance.server_metrics import ServerLoad
from headgate.core.rules import Balance
from headgate.core.target import Target

READS_PER_S = 20_000.0
"""Prompt tokens per second."""
WRITES_PER_S = 40.0
"""Answer tokens per second, of each answer."""
CACHED_BLOCKS = 3_000
SCRAPE_S = 1.0
EXPECTED_OUTPUT = 340
"""What the gateway takes every answer for: it does not know better."""


class Moment:
    """A `core.clock.Clock` that the replay moves."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        raise NotImplementedError("nothing sleeps in a replay")


@dataclass
class Server:
    """One replica. `slowness` 5: everything takes five times as long."""

    slowness: float = 1.0
    cache: dict[int, None] = field(default_factory=dict)
    queue: deque["Sent"] = field(default_factory=deque)
    reading: bool = False
    writing: int = 0
    served: int = 0
    served_tokens: int = 0

    def read(self, request: Request) -> tuple[int, float]:
        """The blocks found in the cache, and the seconds that the others take; all are in the cache then."""
        hits = 0
        for block in request.blocks:
            if block not in self.cache:
                break
            hits += 1
        for block in reversed(request.blocks):  # an end is dropped before its beginning
            self.cache.pop(block, None)
            self.cache[block] = None
        while len(self.cache) > CACHED_BLOCKS:
            del self.cache[next(iter(self.cache))]
        tokens = max(1, (len(request.blocks) - hits) * BLOCK_TOKENS)
        return hits, tokens / READS_PER_S * self.slowness


@dataclass
class Sent:
    request: Request
    load: Load
    server: int


@dataclass
class Replayed:
    """What a replay gave. `share`: of each replica, its part of the requests."""

    ttfts: list[float]
    hit: float
    share: list[float]

    @property
    def mean(self) -> float:
        return sum(self.ttfts) / len(self.ttfts)

    @property
    def p95(self) -> float:
        return sorted(self.ttfts)[int(len(self.ttfts) * 0.95)]


class Replay:
    """One trace over one set of replicas, routed by one balance."""

    def __init__(self, balance: Balance, slowness: Sequence[float] = (1.0,) * 8, seed: int = 0) -> None:
        self._balance = balance
        self._clock = Moment()
        self._balancer = Balancer(self._clock, random.Random(seed))
        self._servers = [Server(factor) for factor in slowness]
        self._targets = [Target("pool", "m", replica=f"pool-{place}") for place in range(len(slowness))]
        self._places = {target.at: place for place, target in enumerate(self._targets)}
        self._events: list[tuple[float, int, str, object]] = []
        self._order = 0
        self._ttfts: list[float] = []
        self._hits = self._blocks = 0

    def run(self, requests: Sequence[Request], settle_s: float = 0.0) -> Replayed:
        """Of what comes after `settle_s` the figures are taken; `Replayed.ttfts` are in seconds."""
        for request in requests:
            self._at(request.at, "arrive", request)
        if self._balance == "queue_depth":
            self._at(0.0, "scrape", requests[-1].at)
        while self._events:
            self._clock.time, _, what, whom = heapq.heappop(self._events)
            if isinstance(whom, Request):
                self._arrive(whom, counted=whom.at >= settle_s)
            elif isinstance(whom, Sent):
                self._go_on(what, whom, counted=whom.request.at >= settle_s)
            elif isinstance(whom, float):
                self._scrape(whom)
        left = [load for load in self._balancer.loads().values() if load.requests or load.prompt_tokens]
        assert not left, left
        total = max(1, sum(server.served for server in self._servers))
        share = [server.served / total for server in self._servers]
        return Replayed(self._ttfts, self._hits / max(1, self._blocks), share)

    def _at(self, when: float, what: str, whom: object) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what, whom))

    def _arrive(self, request: Request, counted: bool) -> None:
        demand = Demand(request.prompt_tokens, EXPECTED_OUTPUT, request.blocks, request.session)
        target = self._balancer.order(self._balance, self._targets, demand)[0]
        place = self._places[target.at]
        server = self._servers[place]
        server.served += counted
        server.queue.append(Sent(request, self._balancer.begin(target, demand), place))
        self._next(server)

    def _next(self, server: Server) -> None:
        if server.reading or not server.queue:
            return
        sent = server.queue.popleft()
        hits, seconds = server.read(sent.request)
        self._hits += hits
        self._blocks += len(sent.request.blocks)
        server.reading = True
        self._at(self._clock.time + seconds, "first", sent)

    def _go_on(self, what: str, sent: Sent, counted: bool) -> None:
        server = self._servers[sent.server]
        if what == "first":
            sent.load.first_piece()
            if counted:
                self._ttfts.append(self._clock.time - sent.request.at)
            server.reading = False
            server.writing += 1
            self._at(self._clock.time + sent.request.output_tokens / WRITES_PER_S * server.slowness, "end", sent)
            self._next(server)
        else:
            server.writing -= 1
            sent.load.end(sent.request.output_tokens)

    def _scrape(self, until: float) -> None:
        for target, server in zip(self._targets, self._servers, strict=True):
            running = server.writing + server.reading
            self._balancer.hear(target.at, ServerLoad(float(len(server.queue)), float(running)))
        if self._clock.time < until:
            self._at(self._clock.time + SCRAPE_S, "scrape", until)
