"""The request path put together: limits, budgets, gates, dispatch, and what looks after them."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from msgspec import structs

from headgate.app.care import Care
from headgate.app.config import Config
from headgate.backends.catalog import members
from headgate.backends.replicas import Replicas
from headgate.core.clock import Clock
from headgate.core.limiter import Account, Cost, Limiter, Plan
from headgate.core.ports import Backend
from headgate.core.target import Route, RouteTable
from headgate.core.usage import Opening
from headgate.ledger.recovery import lost
from headgate.pipeline.admission import Admission, AdmissionSettings
from headgate.pipeline.alerts import Alerts
from headgate.pipeline.auth import Auth
from headgate.pipeline.booking import Booking
from headgate.pipeline.capacity import Fixed
from headgate.pipeline.costing import Costing
from headgate.pipeline.degraded import Degraded
from headgate.pipeline.dispatch import dispatch
from headgate.pipeline.flights.stage import Flights
from headgate.pipeline.gate import Gate, GateSettings
from headgate.pipeline.gates import Gates
from headgate.pipeline.gateway import Gateway
from headgate.pipeline.meter import Meter
from headgate.pipeline.plans import LATE_S
from headgate.pipeline.retry_budget import RetryBudgets
from headgate.pipeline.route import resolve
from headgate.pipeline.seeds import Seeds, Spent
from headgate.pipeline.upstreams import Upstreams
from headgate.telemetry import names


@dataclass(frozen=True)
class Pathway:
    """The gateway, and what a change of configuration or a recovered store must reach."""

    gateway: Gateway
    upstreams: Upstreams
    gates: Gates
    seeds: Seeds
    alerts: Alerts
    care: Care
    own: dict[str, int] = field(default_factory=dict)
    """How many calls each of our own engines is given at once, by replica."""

    def use(self, config: Config) -> None:
        """New settings, from now on."""
        self.gateway.admission.use(config.admission, gate_settings(config.admission))
        self.gates.use(gate_settings(config.admission), _fixed(config) | self.own, config.capacity)
        self.upstreams.retries.use(config.retries)

    def allow(self, replica: str, limit: int | None) -> None:
        """One of our own engines has come, or gone (None)."""
        self.own.pop(replica, None)
        if limit is not None:
            self.own[replica] = limit
        self.gates.fix(replica, limit)

    def publish(self, table: RouteTable, backends: Mapping[str, Backend], pools: Mapping[str, Sequence[str]]) -> None:
        """New routes and backends, from now on: the backends by replica, and the replicas of each."""
        self.upstreams.use(backends, {at: pool for pool, replicas in pools.items() for at in replicas})
        self.gates.keep(backends.keys())
        exact = {name: _resolved(route) for name, route in table.exact.items()}
        self.gateway.routes, self.gateway.pools = structs.replace(table, exact=exact), pools
        self.gateway.backends = backends

    async def aclose(self) -> None:
        """Ends what runs for several callers, or beside another attempt."""
        await self.gateway.flights.aclose()
        await self.upstreams.aclose()


def _resolved(route: Route) -> Route:
    """Looked through once, and not with every call."""
    usable = any(target.weight > 0 for target in (*route.targets, *route.fallbacks))
    return structs.replace(route, plain=resolve(route, route.name)) if usable else route


def gate_settings(settings: AdmissionSettings) -> GateSettings:
    return GateSettings(settings.queue, settings.queue_wait_s, settings.ageing_s)


def pathway(config: Config, auth: Auth, limiter: Limiter, spent: Spent, meter: Meter, rng: random.Random) -> Pathway:
    clock: Clock = meter.clock
    settings = gate_settings(config.admission)
    gates = Gates(clock, settings, config.capacity)
    gates.use(settings, _fixed(config))
    seeds = Seeds(limiter, spent, clock, meter.log)
    alerts = Alerts(meter.metrics, meter.log)
    care, health = Care(meter.log), config.health
    replicas = Replicas(
        clock, rng, care.changed, breaker=health.breaker, outliers=health.outliers, watch=health.silence
    )
    upstreams = care.upstreams = Upstreams(clock, rng, gates, RetryBudgets(config.retries), replicas)
    costing = Costing(meter.estimator, lambda: meter.prices, upstreams.count_input)
    booking = Booking(limiter, costing, seeds, alerts, clock)
    door = Gate("the server", Fixed(config.admission.concurrency), settings, clock)
    admission = Admission(config.admission, booking, door, meter.journal, clock)
    upstreams.again = admission.again
    flights = Flights(partial(dispatch, upstreams), admission.lead, clock)
    gateway = Gateway(auth, admission, flights, Degraded(clock), meter, clock)
    return Pathway(gateway, upstreams, gates, seeds, alerts, care)


def settle_lost(limiter: Limiter, found: Sequence[Opening]) -> None:
    """Budgets pay for the attempts of a process that died what their entries in the ledger say."""
    for opening in found:
        plan = Plan(
            accounts=(
                *(Account(key=key, limit=0, keep_s=LATE_S) for key in opening.money_accounts),
                *(Account(key=key, limit=0, tokens=True, keep_s=LATE_S) for key in opening.token_accounts),
            )
        )
        receipt = lost(opening)
        used = Cost(receipt.usage.total, receipt.cost_nanos or 0)
        limiter.settle(opening.claim, plan, Cost(opening.tokens, opening.nanos), used)


def watch(path: Pathway, meter: Meter) -> None:
    """The gauges of the path."""
    metrics, admission, gates = meter.metrics, path.gateway.admission, path.gates
    metrics.watch(names.IN_FLIGHT, "Calls in progress.", lambda: admission.gate.active)
    metrics.watch(
        names.WAITING, "Calls waiting, for the server or a backend.",
        lambda: admission.gate.waiting + sum(gates.waiting().values()),
    )  # fmt: skip
    metrics.watch_each(names.BACKEND_LIMIT, "Calls a backend is given at once.", "backend", gates.limits)
    metrics.watch_each(names.BACKEND_ACTIVE, "Calls in progress at a backend.", "backend", gates.active)
    metrics.watch_each(names.BACKEND_WAITING, "Calls waiting for a backend.", "backend", gates.waiting)
    metrics.watch_each(
        names.ESTIMATE_ERROR, "How far the guess of a prompt's tokens strays, as a part of them.", "model",
        meter.estimator.errors,
    )  # fmt: skip
    upstreams = path.upstreams
    lag = upstreams.lag
    metrics.watch_each(
        names.REPLICA_STATE, "0 closed, 1 half-open, 2 open, 3 ejected, 4 paused, 5 failing.", "replica",
        lambda: {at: float(state) for at, state in upstreams.replicas.states().items()},
    )  # fmt: skip
    metrics.watch(names.LOOP_LAG, "By how much the event loop has lately been late.", lambda: lag.seconds)
    metrics.watch(names.TASKS, "Tasks of the event loop.", lambda: float(len(asyncio.all_tasks())))
    metrics.watch_each(
        names.RETRIES_LEFT, "Retries that a backend's retry budget still holds.", "backend", upstreams.retries.left
    )


def _fixed(config: Config) -> dict[str, int]:
    """By replica: each takes as many as its backend's settings say."""
    return {
        one.name: one.concurrency
        for backend in config.backends
        for one, _ in members(backend)
        if one.concurrency is not None
    }
