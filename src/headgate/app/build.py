"""The one place where real things meet: every part of a running server, built in order, closed in reverse."""

import asyncio
import random
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import headgate
from headgate.api.runs import Runs
from headgate.api.services import RefusedRequest, Services
from headgate.app.config import EMBEDDED, Config, Environment
from headgate.app.fleet import Fleet
from headgate.app.home import Home
from headgate.app.inference import Inference
from headgate.app.pathway import Pathway, pathway, settle_lost, watch
from headgate.app.routes import visible_models
from headgate.app.yamlfile import ConfigError
from headgate.core.bus import PUBLISH_SECONDS
from headgate.core.clock import Clock
from headgate.core.ids import Ids
from headgate.core.limiter import Limiter
from headgate.core.ports import Backend, ModelInfo
from headgate.core.principal import KeyTable, Principal
from headgate.core.target import RouteTable
from headgate.core.tasks import Tasks
from headgate.ledger import store as ledger_store
from headgate.ledger.accounts import store as accounts_store
from headgate.ledger.accounts.questions import Accounts
from headgate.ledger.billing import store as billing_store
from headgate.ledger.billing.cashier import Cashier
from headgate.ledger.events import BudgetAlert, budget_event
from headgate.ledger.idempotency import store as idempotency_store
from headgate.ledger.idempotency.turns import Turns
from headgate.ledger.journal import Journal
from headgate.ledger.outbox import Outbox, Publisher, Sink
from headgate.ledger.prices import BUNDLED_BOOK, PriceTable, read_book
from headgate.ledger.recovery import recover
from headgate.ledger.shipper import Shipper
from headgate.ops.readiness import Readiness
from headgate.pipeline.alerts import Alert
from headgate.pipeline.auth import Auth, may_use
from headgate.pipeline.gateway import Gateway
from headgate.pipeline.meter import Meter
from headgate.storage.bus.open import open_bus
from headgate.storage.errors import StorageError
from headgate.storage.limits.open import open_limiter
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from headgate.tenancy import store as tenancy_store
from headgate.tenancy.keys import Keys
from headgate.tenancy.tenancy import Tenancy

Work = tuple[Coroutine[Any, Any, None], str]
"""What runs as long as the server, and its name."""
SHIP_SECONDS = 10.0
"""How long the last receipts may take to reach SQL at shutdown; what does not is shipped at the next start."""


@dataclass(frozen=True)
class Parts:
    """What `run` needs to hold of a built server."""

    gateway: Gateway
    path: Pathway
    keys: Keys
    accounts: Accounts
    cashier: Cashier
    runs: Runs
    fleet: Fleet
    inference: Inference | None
    readiness: Readiness
    shipper: Shipper
    meter: Meter
    metrics: Metrics
    ids: Ids
    clock: Clock
    log: Log
    tasks: Tasks


async def open_database(config: Config, home: Path) -> Sql:
    """The configured database, migrated. Raises `ConfigError` where it is not usable as configured."""
    try:
        return await open_sql(config.storage.sql or f"sqlite:///{home / 'headgate.db'}")
    except StorageError as error:
        raise ConfigError(str(error)) from error


def price_table(config: Config) -> PriceTable:
    try:
        return PriceTable(read_book(Path(config.prices) if config.prices else BUNDLED_BOOK))
    except ValueError as error:
        raise ConfigError(str(error)) from error


@asynccontextmanager
async def build(
    config: Config, environment: Environment, home: Home, own_port: int, clock: Clock, log: Log
) -> AsyncIterator[Parts]:
    """A server's parts, wired and started, the listener left out. Raises `ConfigError` with the remedy."""
    async with AsyncExitStack() as stack:
        rng = random.Random(random.SystemRandom().getrandbits(64))
        ids, metrics, tasks = Ids(clock, rng), Metrics(), Tasks()

        sql = await open_database(config, environment.home)
        stack.push_async_callback(sql.aclose)
        limiter = _open_limiter(config, clock)
        stack.push_async_callback(limiter.aclose)

        instance = home.instance()
        store = ledger_store.Store(sql, [sink.name for sink in config.events], f"/headgate/{instance}")
        publishers = await stack.enter_async_context(
            _publishing(config, environment, lambda sink: Publisher(sink, store, instance, clock, rng, log, metrics))
        )
        journal = _open_journal(home.ledger, config)
        stack.callback(journal.close)
        await _recover(journal, limiter, log)
        shipper = Shipper(journal, store, instance, clock, log)
        stack.push_async_callback(shipper.finish, SHIP_SECONDS)
        accounts = Accounts(accounts_store.Store(sql), shipper.flush)

        secret = home.secret(environment.secret)
        auth = Auth(clock, secret)
        keys = Keys(tenancy_store.Store(sql), secret, clock, ids, lambda table: _swap_keys(auth, table), log)
        await keys.refresh()

        meter = Meter(clock, ids, price_table(config), journal, metrics, log)
        cashier = Cashier(billing_store.Store(sql), lambda: meter.prices, shipper.flush, clock)
        path = pathway(config, auth, limiter, accounts.spent, meter, rng)
        gateway = path.gateway

        def publish(table: RouteTable, backends: Mapping[str, Backend]) -> None:
            gateway.dispatch.use(backends)
            gateway.routes = table

        fleet = Fleet(clock, log, environment.variables, publish, own_port)
        stack.push_async_callback(fleet.aclose)
        gateway.usable = fleet.health.usable

        readiness = Readiness()
        inference = Inference(config.engine, clock, ids, log) if config.engine.enabled else None
        if inference is not None:
            stack.push_async_callback(inference.aclose)
            _launch(inference, fleet, readiness)
        await fleet.apply(config)

        watch(path, meter)
        _watch_gauges(metrics, shipper, journal)
        _watch_backends(metrics, fleet, inference)
        _watch_events(metrics, publishers)
        turns = Turns(idempotency_store.Store(sql, instance, ids.new("boot")), config.idempotency, clock, log)
        runs = Runs(turns, config.idempotency, metrics.idempotent)
        stack.push_async_callback(tasks.aclose)
        stack.push_async_callback(runs.aclose)
        for work, name in (
            *_upkeep(shipper, keys, turns, path, fleet, rng),
            *_carrying(publishers, path, store, clock),
        ):
            keep(tasks, work, name, log)
        yield Parts(
            gateway, path, keys, accounts, cashier, runs, fleet, inference, readiness, shipper, meter, metrics, ids,
            clock, log, tasks,
        )  # fmt: skip


def services(parts: Parts) -> Services:
    """What the api is handed."""
    gateway = parts.gateway
    return Services(
        gateway=gateway,
        auth=gateway.auth,
        routes=lambda: gateway.routes,
        visible_models=lambda principal: _models_of(gateway.routes, principal),
        keys=parts.keys,
        runs=parts.runs,
        tenancy=Tenancy(parts.keys),
        accounts=parts.accounts,
        invoices=parts.cashier,
        ready=parts.readiness,
        metrics=parts.metrics.page,
        on_bug=lambda request_id, error: _log_bug(parts.log, parts.metrics, request_id, error),
        on_refused=lambda request: _log_refused(parts.log, parts.metrics, request),
        clock=parts.clock,
        ids=parts.ids,
        version=headgate.__version__,
    )


def keep(tasks: Tasks, work: Coroutine[Any, Any, None], name: str, log: Log) -> None:
    """Runs work that lasts as long as the server. Should it fail all the same, the log says so."""

    def ended(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            text = "".join(traceback.format_exception(error))
            log.event(names.TASK_DIED, "error", task=name, error=text, remedy="restart the server, and report this")

    tasks.spawn(work, name).add_done_callback(ended)


def _open_limiter(config: Config, clock: Clock) -> Limiter:
    try:
        return open_limiter(config.storage.counters, clock)
    except StorageError as error:
        raise ConfigError(str(error)) from error


def _open_journal(folder: Path, config: Config) -> Journal:
    try:
        return Journal(folder, settings=config.ledger)
    except OSError as error:
        raise ConfigError(
            f"{folder}: the usage ledger cannot be written: {error.strerror}. Free some space, or mend its permissions."
        ) from error


async def _recover(journal: Journal, limiter: Limiter, log: Log) -> None:
    """What the process before this one had begun and not ended gets its entries and is settled."""
    found = await asyncio.to_thread(recover, journal)
    settle_lost(limiter, found)
    if found:
        log.event(names.LEDGER_RECOVERED, "warning", attempts=len(found))


@asynccontextmanager
async def _publishing(
    config: Config, environment: Environment, make: Callable[[Sink], Publisher]
) -> AsyncIterator[list[Publisher]]:
    """The configured sinks' publishers, which at the end publish what the last receipts left to tell."""
    async with AsyncExitStack() as stack:
        publishers = []
        for settings in config.events:
            try:
                bus = open_bus(settings, environment.variables)
            except StorageError as error:
                raise ConfigError(str(error)) from error
            stack.push_async_callback(bus.aclose)
            publisher = make(Sink(settings.name, bus))
            stack.push_async_callback(publisher.finish, PUBLISH_SECONDS)
            publishers.append(publisher)
        yield publishers


def _upkeep(shipper: Shipper, keys: Keys, turns: Turns, path: Pathway, fleet: Fleet, rng: random.Random) -> list[Work]:
    return [
        (shipper.run(), "ledger shipper"),
        (keys.watch(rng), "keys watcher"),
        (turns.run(), "idempotency keys"),
        (path.seeds.run(), "budget accounts"),
        (fleet.keep_fresh(), "model lists"),
    ]


def _carrying(publishers: Sequence[Publisher], path: Pathway, store: ledger_store.Store, clock: Clock) -> list[Work]:
    """Where there are sinks, they are told of budgets too."""
    if not publishers:
        return []
    outbox = Outbox(store, clock)

    def tell(alert: Alert) -> None:
        outbox.tell(budget_event(BudgetAlert(**msgspec.structs.asdict(alert)), store.source, clock.now()))

    path.alerts.tell = tell
    publishing = [(publisher.run(), f"events to {publisher.sink}") for publisher in publishers]
    return [*publishing, (outbox.run(), "budget events")]


def _launch(inference: Inference, fleet: Fleet, readiness: Readiness) -> None:
    inference.launch()
    fleet.add_own(EMBEDDED, inference.models, inference.backend)
    readiness.require(EMBEDDED, inference.ready)


def _swap_keys(auth: Auth, table: KeyTable) -> None:
    auth.table = table


def _models_of(table: RouteTable, principal: Principal) -> list[ModelInfo]:
    return [model for model in visible_models(table) if may_use(principal, model.id)]


def _log_bug(log: Log, metrics: Metrics, request_id: str, error: BaseException) -> None:
    metrics.bug()
    log.event(names.BUG, "error", request_id=request_id, error="".join(traceback.format_exception(error)))


def _log_refused(log: Log, metrics: Metrics, request: RefusedRequest) -> None:
    metrics.refused(request.status, request.code)
    log.event(names.REQUEST_REFUSED, **msgspec.structs.asdict(request))


def _watch_backends(metrics: Metrics, fleet: Fleet, inference: Inference | None) -> None:
    metrics.watch_each(names.BACKEND_UP, "Whether a backend's last probes were good.", "backend", fleet.up)
    for name, documentation, read in inference.gauges() if inference is not None else []:
        metrics.watch(name, documentation, read)


def _watch_gauges(metrics: Metrics, shipper: Shipper, journal: Journal) -> None:
    metrics.watch(names.LEDGER_UNSHIPPED, "Bytes of receipts not yet in SQL.", shipper.unshipped)
    metrics.watch(names.LEDGER_LOST, "Receipts given up while the disk took none.", lambda: journal.lost)


def _watch_events(metrics: Metrics, publishers: Sequence[Publisher]) -> None:
    def each(read: Callable[[Publisher], float]) -> Callable[[], dict[str, float]]:
        return lambda: {publisher.sink: read(publisher) for publisher in publishers}

    metrics.watch_each(names.EVENTS_WAITING, "Events that a sink has not taken yet.", "sink", each(lambda p: p.waiting))
    metrics.watch_each(names.EVENTS_AGE, "Age of the oldest of them.", "sink", each(lambda p: p.age_s()))
