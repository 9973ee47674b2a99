"""The request path put together: limits, budgets, gates, dispatch, and what looks after them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from headgate.app.config import EMBEDDED, Config
from headgate.core.clock import Clock
from headgate.core.limiter import Account, Cost, Limiter, Plan
from headgate.core.usage import Opening
from headgate.ledger.recovery import lost
from headgate.pipeline.admission import Admission, AdmissionSettings
from headgate.pipeline.alerts import Alerts
from headgate.pipeline.auth import Auth
from headgate.pipeline.booking import Booking
from headgate.pipeline.capacity import Fixed
from headgate.pipeline.costing import Costing
from headgate.pipeline.dispatch import Dispatch
from headgate.pipeline.gate import Gate, GateSettings
from headgate.pipeline.gates import Gates
from headgate.pipeline.gateway import Gateway
from headgate.pipeline.meter import Meter
from headgate.pipeline.plans import LATE_S
from headgate.pipeline.retry_budget import RetryBudget
from headgate.pipeline.seeds import Seeds, Spent
from headgate.telemetry import names

ENGINE_AHEAD = 2
"""Calls let in to our engine, as a multiple of what it computes side by side: it never waits for the next one."""


@dataclass(frozen=True)
class Pathway:
    """The gateway, and what a change of configuration or a recovered store must reach."""

    gateway: Gateway
    gates: Gates
    retries: RetryBudget
    seeds: Seeds
    alerts: Alerts

    def use(self, config: Config) -> None:
        """New settings, from now on."""
        self.gateway.admission.use(config.admission, gate_settings(config.admission))
        self.gates.use(gate_settings(config.admission), _fixed(config), config.capacity)
        self.retries.use(config.retries)


def gate_settings(settings: AdmissionSettings) -> GateSettings:
    return GateSettings(settings.queue, settings.queue_wait_s, settings.ageing_s)


def pathway(config: Config, auth: Auth, limiter: Limiter, spent: Spent, meter: Meter, rng: random.Random) -> Pathway:
    clock: Clock = meter.clock
    settings = gate_settings(config.admission)
    gates = Gates(clock, settings, config.capacity)
    gates.use(settings, _fixed(config))
    seeds = Seeds(limiter, spent, clock, meter.log)
    alerts = Alerts(meter.metrics, meter.log)
    retries = RetryBudget(config.retries)
    dispatch = Dispatch(clock, gates, retries)
    costing = Costing(meter.estimator, lambda: meter.prices, dispatch.count_input)
    booking = Booking(limiter, costing, seeds, alerts, clock)
    door = Gate("the server", Fixed(config.admission.concurrency), settings, clock)
    admission = Admission(config.admission, booking, door, meter.journal, clock)
    dispatch.again = admission.again
    return Pathway(Gateway(auth, admission, dispatch, meter, clock, rng), gates, retries, seeds, alerts)


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
    lag = path.gateway.dispatch.lag
    metrics.watch(names.LOOP_LAG, "By how much the event loop has lately been late.", lambda: lag.seconds)
    metrics.watch(names.RETRIES_LEFT, "Retries that the retry budget still holds.", lambda: path.retries.left)


def _fixed(config: Config) -> dict[str, int]:
    fixed = {backend.name: backend.concurrency for backend in config.backends if backend.concurrency is not None}
    fixed[EMBEDDED] = ENGINE_AHEAD * config.engine.settings.max_sequences
    return fixed
