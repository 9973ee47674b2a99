"""What commands may do beside a running server: keys, the list of models, the doctor's round."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from headgate.app.build import open_database
from headgate.app.config import EMBEDDED, Config, Environment
from headgate.app.fleet import Fleet
from headgate.app.home import make_folder, server_secret
from headgate.app.inference import hosted_models
from headgate.core.clock import SystemClock
from headgate.core.ids import Ids
from headgate.core.ports import Backend, ModelInfo
from headgate.core.target import Route, RouteTable
from headgate.ops import doctor
from headgate.ops.doctor import Finding
from headgate.release import store as release_store
from headgate.release.switches import KillSwitches
from headgate.telemetry.log import Log
from headgate.tenancy.keys import Keys
from headgate.tenancy.store import Store
from headgate.tenancy.tenancy import Tenancy


@asynccontextmanager
async def open_tenancy(config: Config, environment: Environment) -> AsyncIterator[Tenancy]:
    """Keys, projects, users and policies in the configured database. Running servers follow within a second."""
    async with open_switches(config, environment) as (_, tenancy):
        yield tenancy


@asynccontextmanager
async def open_switches(config: Config, environment: Environment) -> AsyncIterator[tuple[KillSwitches, Tenancy]]:
    """Kill switches in the configured database, and who they may be about. Running servers follow at once."""
    clock = SystemClock()
    make_folder(environment.home)
    sql = await open_database(config, environment.home)
    try:
        secret = server_secret(environment.home, environment.secret)
        ids = Ids(clock, random.SystemRandom())
        tenancy = Tenancy(Keys(Store(sql), secret, clock, ids, lambda table: None, Log(clock, "error")))
        yield KillSwitches(release_store.Store(sql), clock, ids, _nothing), tenancy
    finally:
        await sql.aclose()


async def survey(config: Config, environment: Environment) -> list[Route]:
    """Every route a server with this configuration would start with, by name."""
    async with _fleet(config, environment) as (table, _):
        routes = [table.exact[name] for name in sorted(table.exact)]
        return [*routes, *table.patterns, *([table.catch_all] if table.catch_all else [])]


async def examine(config: Config, environment: Environment) -> list[Finding]:
    """The doctor's round: this machine first, then the model, then every backend."""
    findings = [
        doctor.check_python(),
        doctor.check_open_files(),
        doctor.check_tls_roots(),
        doctor.check_disk(environment.home),
        await doctor.check_port(config.server.host, config.server.port),
    ]
    if config.engine.enabled:
        findings += [doctor.check_model(hosted.folder) for hosted in hosted_models(config.engine)]
    async with _fleet(config, environment) as (_, backends):
        findings += [await doctor.check_backend(backend) for backend in backends.values()]
    return findings


async def _nothing() -> None:
    """There is no snapshot here to bring up to date."""


@asynccontextmanager
async def _fleet(config: Config, environment: Environment) -> AsyncIterator[tuple[RouteTable, Mapping[str, Backend]]]:
    """The backends and routes of a configuration. The engine is listed but not started."""
    clock = SystemClock()
    published: list[tuple[RouteTable, Mapping[str, Backend]]] = []
    fleet = Fleet(
        clock,
        Log(clock, "error"),
        environment.variables,
        lambda table, backends, _: published.append((table, backends)),
        config.server.port,
    )
    try:
        if config.engine.enabled:
            fleet.add_own(EMBEDDED, [ModelInfo(hosted.name) for hosted in hosted_models(config.engine)])
        await fleet.apply(config)
        yield published[-1]
    finally:
        await fleet.aclose()
