"""The backends in force: built from settings and discovery, watched, and replaced when the configuration changes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from headgate.app.config import Config
from headgate.app.routes import Pools, build_routes
from headgate.app.yamlfile import ConfigError
from headgate.backends.balance.scraper import Scraper
from headgate.backends.balance.server_metrics import ServerLoad
from headgate.backends.catalog import BackendSettings, build, members
from headgate.backends.discover import Discovered, discover
from headgate.backends.health import Condition, HealthMonitor, HealthSettings
from headgate.backends.openai import OpenAIBackend
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.ports import Backend, ModelInfo
from headgate.core.target import RouteTable
from headgate.telemetry import names
from headgate.telemetry.log import Level, Log

LIST_SECONDS = 5.0
REFRESH_SECONDS = 30.0
"""How often backends are asked again which models they have: an Ollama user pulls one while we run."""
RETIRE_SECONDS = 600.0
"""How long a backend taken out of the configuration lives on for the calls it still serves."""

Publish = Callable[[RouteTable, Mapping[str, Backend], Mapping[str, Sequence[str]]], None]
"""The routes, the backends by replica, and the replicas of each backend."""


class _Own(NamedTuple):
    pool: str
    backend: Backend | None
    models: tuple[ModelInfo, ...]


class Fleet:
    """One writer of the route snapshot. `own` are backends built elsewhere (the engine), with their models."""

    def __init__(
        self,
        clock: Clock,
        log: Log,
        variables: Mapping[str, str],
        publish: Publish,
        own_port: int | None,
        health: HealthSettings | None = None,
    ) -> None:
        self._clock = clock
        self._log = log
        self._variables = variables
        self._publish = publish
        self._own_port = own_port
        self._config = Config()
        self._own: dict[str, _Own] = {}
        """By replica."""
        self._built: dict[str, tuple[BackendSettings, Backend]] = {}
        """By replica."""
        self._pools: dict[str, list[tuple[str, float]]] = {}
        """The replicas of each backend, and their weights."""
        self._listed: dict[str, tuple[ModelInfo, ...]] = {}
        self._retired: list[tuple[float, Backend]] = []
        self._version = 0
        self.health = HealthMonitor(clock, health, changed=self._state_changed)
        self.failing: Callable[[str, str | None], None] = lambda _name, _why: None
        """Hears which backends' probes fail, why, and which are well again (None)."""
        self.hear: Callable[[str, ServerLoad], None] = lambda _name, _seen: None
        """Hears what model servers say of their queues, where a route is balanced by that."""
        self._scraper = Scraper(clock, self._page, lambda at, seen: self.hear(at, seen))

    def add_own(
        self, name: str, models: Sequence[ModelInfo], backend: Backend | None = None, pool: str | None = None
    ) -> None:
        """A backend built elsewhere; without `backend` its models are listed and cannot be called.

        Several may share a `pool`, the name that routes call them by: there, each model stands for itself.
        In force with the next `publish`.
        """
        self._own[name] = _Own(pool or name, backend, tuple(models))

    def remove_own(self, name: str) -> None:
        """In force with the next `publish`; what it serves goes on."""
        self._own.pop(name, None)

    async def apply(self, config: Config) -> None:
        """Builds what `config` names, keeps what has not changed, retires the rest, and publishes the routes.

        Raises `ConfigError`; then nothing has changed.
        """
        found = await self._discover(config)
        pools = {settings.name: members(settings) for settings in config.backends}
        taken = pools.keys() | {one.name for pool in pools.values() for one, _ in pool}
        for discovered in found:
            if discovered.settings.name not in taken:
                pools[discovered.settings.name] = [(discovered.settings, 1.0)]
        wanted = {settings.name: settings for pool in pools.values() for settings, _ in pool}
        built: dict[str, tuple[BackendSettings, Backend]] = {}
        for name, settings in wanted.items():
            known = self._built.get(name)
            try:
                built[name] = known if known and known[0] == settings else (settings, self._build(settings))
            except ValueError as error:
                for _, backend in (entry for key, entry in built.items() if entry is not self._built.get(key)):
                    await backend.aclose()
                raise ConfigError(f"{error}. Mend the entry under 'backends'.") from error
        now = self._clock.monotonic()
        for name, (_, backend) in self._built.items():
            if built.get(name, (None, None))[1] is not backend:
                self._retired.append((now + RETIRE_SECONDS, backend))
        self._built, self._config = built, config
        self._pools = {pool: [(one.name, weight) for one, weight in entries] for pool, entries in pools.items()}
        fresh = {
            server.settings.name
            for server in found
            if server.models and server.settings == wanted.get(server.settings.name)
        }
        for server in found:
            if server.settings.name in fresh:
                self._listed[server.settings.name] = server.models
        await self.refresh(frozenset(fresh))
        self.health.watch([backend for _, backend in built.values()])
        asked = any(rules.balance == "queue_depth" for rules in (config.rules, *(one.rules for one in config.routes)))
        self._scraper.watch(
            {name: name for name, (_, one) in built.items() if asked and isinstance(one, OpenAIBackend)}
        )

    async def keep_fresh(self) -> None:
        """Until cancelled: follows the backends' own lists, and closes retired ones when their time is up."""
        while True:
            await self._clock.sleep(REFRESH_SECONDS)
            await self.refresh()
            now = self._clock.monotonic()
            for end, backend in [entry for entry in self._retired if entry[0] <= now]:
                self._retired.remove((end, backend))
                await backend.aclose()

    async def refresh(self, fresh: frozenset[str] = frozenset()) -> None:
        """Asks every backend without a fixed list for its models, those just asked (`fresh`) left out.

        One that does not answer keeps its last list.
        """
        open_lists = [
            name for name, (settings, _) in self._built.items() if settings.models is None and name not in fresh
        ]
        answers = await asyncio.gather(*(self._list(self._built[name][1]) for name in open_lists))
        for name, models in zip(open_lists, answers, strict=True):
            if models is not None:
                self._listed[name] = models
        self.publish()

    def publish(self) -> None:
        """Routes from what is known now; nobody is asked."""
        self._version += 1
        listed: dict[str, tuple[ModelInfo, ...]] = {}
        own_pools: dict[str, list[str]] = {}
        places: dict[tuple[str, str], str] = {}
        for name, own in self._own.items():
            listed[own.pool] = (*listed.get(own.pool, ()), *own.models)
            own_pools.setdefault(own.pool, []).append(name)
            places |= {(own.pool, model.id): name for model in own.models if name != own.pool}
        for pool, replicas in self._pools.items():
            offers = [_offered(pool, self._built[name][0], self._listed.get(name, ())) for name, _ in replicas]
            listed[pool] = next(filter(None, offers), ())
        backends = {name: own.backend for name, own in self._own.items() if own.backend is not None}
        backends |= {name: backend for name, (_, backend) in self._built.items()}
        table = build_routes(
            self._version,
            self._config.routes,
            listed,
            self._aliases(),
            self._config.rules,
            Pools(_several(self._pools), places),
        )
        self._publish(table, backends, own_pools | {pool: [name for name, _ in of] for pool, of in self._pools.items()})

    def up(self) -> dict[str, float]:
        """1 for each backend not known to be failing, else 0."""
        return {name: float(self.health.usable(name)) for name in self._built}

    async def aclose(self) -> None:
        await self._scraper.aclose()
        await self.health.aclose()
        for backend in (*(entry[1] for entry in self._built.values()), *(entry[1] for entry in self._retired)):
            await backend.aclose()

    async def _page(self, name: str) -> str:
        _, backend = self._built.get(name, (None, None))
        if not isinstance(backend, OpenAIBackend):
            raise OSError(f"{name} has no page of metrics")
        return await backend.metrics()

    def _aliases(self) -> dict[str, dict[str, str]]:
        found = {}
        for pool, replicas in self._pools.items():
            if aliases := self._built[replicas[0][0]][0].aliases:
                found[pool] = aliases
        return found

    def _build(self, settings: BackendSettings) -> Backend:
        return build(settings, self._clock, self._variables)

    async def _discover(self, config: Config) -> list[Discovered]:
        if not config.discover:
            return []
        found = await discover(self._variables, self._clock, own_port=self._own_port)
        for server in found:
            if not server.models:
                self._log.event(names.BACKEND_STATE, "warning", backend=server.settings.name, detail=server.detail)
        return found

    async def _list(self, backend: Backend) -> tuple[ModelInfo, ...] | None:
        try:
            async with asyncio.timeout(LIST_SECONDS):
                return tuple(await backend.models())
        except (HeadgateError, TimeoutError) as error:
            self._log.event(names.BACKEND_STATE, "warning", backend=backend.name, detail=f"lists no models: {error}")
            return None

    def _state_changed(self, name: str, condition: Condition) -> None:
        level: Level = "warning" if condition.state == "failing" else "info"
        self._log.event(names.BACKEND_STATE, level, backend=name, state=condition.state, detail=condition.detail)
        self.failing(name, condition.detail if condition.state == "failing" else None)


def _several(pools: Mapping[str, Sequence[tuple[str, float]]]) -> dict[str, Sequence[tuple[str, float]]]:
    return {pool: names for pool, names in pools.items() if len(names) > 1 or names[0][0] != pool}


def _offered(backend: str, settings: BackendSettings, listed: tuple[ModelInfo, ...]) -> tuple[ModelInfo, ...]:
    """What callers are shown of a backend: its fixed list where it has one, else what it lists itself."""
    if settings.models is None:
        return listed
    return tuple(ModelInfo(model, owned_by=backend) for model in settings.models)
