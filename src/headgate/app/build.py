"""The one place where real things meet: every part of a running server, built in order, closed in reverse."""

import asyncio
import platform
import random
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

import headgate
from headgate.api.resume import Streams
from headgate.api.runs import Runs
from headgate.api.services import RefusedRequest, Services
from headgate.app.config import EMBEDDED, Config, Environment
from headgate.app.engine_metrics import families
from headgate.app.engines import Around, Engines
from headgate.app.fleet import Fleet
from headgate.app.home import Home
from headgate.app.ledger import Kit, Work, open_books
from headgate.app.pathway import Pathway, pathway, watch
from headgate.app.routes import visible_models
from headgate.app.yamlfile import ConfigError
from headgate.core.clock import Clock
from headgate.core.ids import Ids
from headgate.core.limiter import Account
from headgate.core.ports import ModelInfo
from headgate.core.principal import KeyTable, Principal
from headgate.core.target import RouteTable
from headgate.core.tasks import Tasks
from headgate.ledger import store as ledger_store
from headgate.ledger.accounts import store as accounts_store
from headgate.ledger.accounts.questions import Accounts
from headgate.ledger.accounts.velocity import Velocities, Watched
from headgate.ledger.billing import store as billing_store
from headgate.ledger.billing.cashier import Cashier
from headgate.ledger.idempotency import store as idempotency_store
from headgate.ledger.idempotency.turns import Turns
from headgate.ledger.outbox import Sink
from headgate.ledger.prices import BUNDLED_BOOK, PriceTable, read_book
from headgate.ledger.shipper import Shipper
from headgate.ops.readiness import Readiness
from headgate.pipeline.auth import Auth, may_use
from headgate.pipeline.gateway import Gateway
from headgate.pipeline.meter import Meter
from headgate.release import store as release_store
from headgate.release.switches import KillSwitches
from headgate.release.watch import Watch
from headgate.storage.bus.open import open_bus
from headgate.storage.errors import StorageError
from headgate.storage.limits.guarded import Change, Hears
from headgate.storage.limits.together import Limits, open_limits
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.storage.streams.open import open_streams
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from headgate.tenancy import store as tenancy_store
from headgate.tenancy.keys import Keys
from headgate.tenancy.tenancy import Tenancy


@dataclass(frozen=True)
class Parts:
    """What `run` needs to hold of a built server."""

    gateway: Gateway
    path: Pathway
    keys: Keys
    switches: KillSwitches
    accounts: Accounts
    cashier: Cashier
    runs: Runs
    streams: Streams
    fleet: Fleet
    engines: Engines | None
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
        rng, secret = random.Random(random.SystemRandom().getrandbits(64)), home.secret(environment.secret)
        ids, metrics, tasks = Ids(clock, rng), Metrics(), Tasks()

        sql = await open_database(config, environment.home)
        stack.push_async_callback(sql.aclose)
        kit = Kit(clock, rng, log, metrics)
        path: Pathway  # made below, of what is made here
        hears = _hears(kit, lambda accounts: path.seeds.recheck([account.key for account in accounts]))
        limits = await stack.enter_async_context(_limits(config, home.instance(), kit, hears))

        store = ledger_store.Store(sql, [sink.name for sink in config.events], f"/headgate/{home.instance()}")
        sinks = _open_sinks(config, environment)
        books = await stack.enter_async_context(open_books(config, home, store, sinks, limits.limiter, kit))
        journal, shipper = books.journal, books.shipper
        accounts = Accounts(accounts_store.Store(sql), shipper.flush)

        auth = Auth(clock, secret)
        keys = Keys(tenancy_store.Store(sql), secret, clock, ids, lambda table: _swap_keys(auth, table), log)
        await keys.refresh()
        switched = await stack.enter_async_context(_switched(sql, home.instance(), own_port, kit))

        meter = Meter(clock, ids, price_table(config), journal, metrics, log)
        cashier = Cashier(billing_store.Store(sql), lambda: meter.prices, shipper.flush, clock)
        path = pathway(config, auth, limits.limiter, accounts.spent, meter, rng)
        path.seeds.touched, path.seeds.last_known = limits.touched, limits.last_known
        gateway = path.gateway
        gateway.switches = lambda: switched.snapshot

        fleet = Fleet(clock, log, environment.variables, path.publish, own_port, config.health.probes)
        fleet.failing, fleet.hear = path.care.failing, path.upstreams.balancer.hear
        stack.push_async_callback(fleet.aclose)

        readiness = Readiness()
        around = Around(fleet, path.allow, Tenancy(keys).audit.note, home.folder / "encoders")
        engines = _launched(config, around, ids, kit, readiness)
        if engines is not None:
            stack.push_async_callback(engines.aclose)
            keep(tasks, engines.watch(), "engines", log)
        await fleet.apply(config)
        watch(path, meter)
        books.watch(metrics)
        _watch_backends(metrics, fleet, engines)
        turns = Turns(idempotency_store.Store(sql, home.instance(), ids.new("boot")), config.idempotency, clock, log)
        runs = Runs(turns, config.idempotency, metrics.idempotent)
        stack.push_async_callback(tasks.aclose)
        stack.push_async_callback(path.aclose)
        stack.push_async_callback(runs.aclose)
        streams = await stack.enter_async_context(_streams(config, kit))
        for work, name in (*books.works(path), *_upkeep(keys, switched, accounts, turns, path, fleet, kit)):
            keep(tasks, work, name, log)
        yield Parts(
            gateway, path, keys, KillSwitches(switched.store, clock, ids, switched.follow), accounts, cashier, runs,
            streams, fleet, engines, readiness, shipper, meter, metrics, ids, clock, log, tasks,
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
        switches=parts.switches,
        runs=parts.runs,
        streams=parts.streams,
        tenancy=Tenancy(parts.keys),
        accounts=parts.accounts,
        invoices=parts.cashier,
        engines=parts.engines,
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


@asynccontextmanager
async def _limits(config: Config, instance: str, kit: Kit, hears: Hears) -> AsyncIterator[Limits]:
    try:
        limits = open_limits(config.storage.counters, kit.clock, kit.rng, instance, hears)
        async with limits as opened:
            kit.metrics.watch(names.REPLICAS, "Processes that share the limits.", opened.replicas)
            yield opened
    except StorageError as error:
        raise ConfigError(str(error)) from error


def _hears(kit: Kit, recovered: Callable[[tuple[Account, ...]], None]) -> Hears:
    """Who is told when the store of limits goes and comes back."""
    state = {"degraded": 0.0}
    kit.metrics.watch(names.LIMITS_AWAY, "Whether limits are judged without their store.", lambda: state["degraded"])

    def changed(change: Change) -> None:
        state["degraded"] = float(change.degraded)
        if change.degraded:
            kit.log.event(names.LIMITS_DEGRADED, "error", reason=change.reason)
        else:
            kit.log.event(names.LIMITS_RECOVERED, "warning", away_s=round(change.away_s, 3))

    return Hears(changed, recovered, kit.metrics.judged_alone)


def _open_sinks(config: Config, environment: Environment) -> list[Sink]:
    try:
        return [Sink(settings.name, open_bus(settings, environment.variables)) for settings in config.events]
    except StorageError as error:
        raise ConfigError(str(error)) from error


@asynccontextmanager
async def _switched(sql: Sql, instance: str, port: int, kit: Kit) -> AsyncIterator[Watch]:
    """Kill switches in force before the first call; at the end nobody waits for this process any more."""
    switched = Watch(release_store.Store(sql), instance, f"{platform.node()}:{port}", kit.clock, kit.log)
    kit.metrics.watch_each(names.SWITCHES_ACTIVE, "Kill switches in force.", "kind", switched.active)
    try:
        await switched.start()
        yield switched
    finally:
        await switched.leave()


@asynccontextmanager
async def _streams(config: Config, kit: Kit) -> AsyncIterator[Streams]:
    """Resumable streams, kept where the limits are. Those in progress are ended first, then what keeps them."""
    metrics, tasks = kit.metrics, Tasks()
    try:
        store = open_streams(config.storage.counters, config.streams, kit.clock)
    except StorageError as error:
        raise ConfigError(str(error)) from error

    def bug(request_id: str, error: BaseException) -> None:
        _log_bug(kit.log, metrics, request_id, error)

    streams = Streams(store, config.streams, kit.clock, bug, metrics.stream_resumed, metrics.stream_unkept)
    metrics.watch(names.STREAMS, "Streams that this process keeps or writes for clients to resume.", lambda: store.kept)
    metrics.watch(names.STREAM_RUNS, "Resumable streams in progress in this process.", lambda: len(streams))
    metrics.watch(names.STREAM_BYTES, "Bytes of resumable streams in this process.", lambda: streams.held)
    keep(tasks, store.run(), "streams kept", kit.log)
    try:
        yield streams
    finally:
        await streams.aclose()
        await tasks.aclose()
        await store.aclose()


def _upkeep(
    keys: Keys, switched: Watch, accounts: Accounts, turns: Turns, path: Pathway, fleet: Fleet, kit: Kit
) -> list[Work]:
    watched = Watched(lambda: path.gateway.auth.table)
    stop = Tenancy(keys).stops.stop
    velocities = Velocities(accounts, watched.policies, watched.stopped, stop, kit.clock, kit.log)
    return [
        (keys.watch(kit.rng), "keys watcher"),
        (switched.watch(kit.rng), "kill switches"),
        (velocities.run(), "spend velocities"),
        (turns.run(), "idempotency keys"),
        (path.seeds.run(), "budget accounts"),
        (path.upstreams.lag.run(), "event loop's lag"),
        (path.upstreams.replicas.watch(fleet.health.suspect), "signs of life"),
        (fleet.keep_fresh(), "model lists"),
    ]


def _launched(config: Config, around: Around, ids: Ids, kit: Kit, readiness: Readiness) -> Engines | None:
    if not config.engine.enabled:
        return None
    engines = Engines(config.engine, around, kit.clock, ids, kit.log)
    engines.launch()
    readiness.require(EMBEDDED, engines.ready)
    return engines


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


def _watch_backends(metrics: Metrics, fleet: Fleet, engines: Engines | None) -> None:
    metrics.watch_each(names.BACKEND_UP, "Whether a backend's last probes were good.", "backend", fleet.up)
    if engines is not None:
        metrics.watch_all(lambda: families(list(engines.models.values()), engines.memory()))
