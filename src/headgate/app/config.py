"""The configuration: each room's settings struct, composed; read from `headgate.yaml` and the environment, once.

The only module that reads the environment.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, structs

from headgate.api.settings import ServerSettings
from headgate.app.rules import Name, RuleSettings, TargetSettings
from headgate.app.yamlfile import ConfigError, YamlFile
from headgate.backends.breaker import BreakerSettings
from headgate.backends.catalog import BackendSettings, members
from headgate.backends.health import HealthSettings
from headgate.backends.outliers import OutlierSettings
from headgate.backends.providers import LOCAL_SERVERS, PROVIDERS
from headgate.backends.pulse import WatchSettings
from headgate.core.bus import BusSettings, NatsSettings
from headgate.core.streams import StreamSettings
from headgate.engine.settings import EngineSettings
from headgate.ledger.idempotency.ask import IdempotencySettings
from headgate.ledger.journal import LedgerSettings
from headgate.pipeline.admission import AdmissionSettings
from headgate.pipeline.capacity import AdaptiveSettings
from headgate.pipeline.retry_budget import RetrySettings
from headgate.telemetry.log import Level

DEFAULT_FILE = "headgate.yaml"
EMBEDDED = "embedded"
"""The name of the engine's backend."""
HIDDEN = "***"
_SECRET = re.compile(r"key|token|secret|password|sig", re.IGNORECASE)


class RouteSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """A model name as callers know it: exact, a pattern such as `gpt-*`, or `*` for all that nothing else matches."""

    model: Name
    targets: Annotated[tuple[TargetSettings, ...], Meta(min_length=1)]
    fallbacks: tuple[TargetSettings, ...] = ()
    rules: RuleSettings = RuleSettings()
    """What differs from the file's own `rules`."""


class ModelConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One more model, in an engine process of its own."""

    name: Name
    """The name callers use."""
    model: Name
    """As `engine.model`."""
    settings: dict[str, Any] = {}
    """What differs from `engine.settings`."""
    keep: Literal["always", "idle"] = "idle"
    """`always`: it is never put to sleep."""


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The engine processes in this server's care. `model` is a Hugging Face folder, `bundled`, or `package:NAME`."""

    enabled: bool = True
    model: Name | None = None
    """Without it and without `models`, the bundled one is served."""
    name: Name | None = None
    """The name callers use; the folder's own by default."""
    settings: EngineSettings = EngineSettings()
    models: Annotated[tuple[ModelConfig, ...], Meta(max_length=64)] = ()
    models_dir: str | None = None
    """Folders below it can be loaded through the admin API."""
    memory_mib: Annotated[int, Meta(ge=0)] = 0
    """What all models awake may take together; 0: no limit."""
    sleep_after_s: Annotated[float, Meta(ge=0)] = 0.0
    """A model without calls for so long is put to sleep; 0: never."""
    turn_s: Annotated[float, Meta(ge=0)] = 30.0
    """A model that is called for so long and finds no memory takes the place of one in use; 0: never."""


class StorageSettings(Struct, frozen=True, forbid_unknown_fields=True):
    sql: str | None = None
    """`sqlite:///path` or `postgresql://…`; by default a file in the home folder."""
    counters: str = "memory"
    """`memory`, or `redis://…` to share limits between processes."""


class HealthConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """When a replica is left alone, and when it is asked again."""

    probes: HealthSettings = HealthSettings()
    breaker: BreakerSettings = BreakerSettings()
    outliers: OutlierSettings = OutlierSettings()
    silence: WatchSettings = WatchSettings()


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    level: Level = "info"


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that can be set. All of it is optional."""

    server: ServerSettings = ServerSettings()
    log: LogSettings = LogSettings()
    storage: StorageSettings = StorageSettings()
    admission: AdmissionSettings = AdmissionSettings()
    retries: RetrySettings = RetrySettings()
    capacity: AdaptiveSettings = AdaptiveSettings()
    """How the concurrency of backends without a fixed one is found."""
    idempotency: IdempotencySettings = IdempotencySettings()
    streams: StreamSettings = StreamSettings()
    """Which streams a client can come back for."""
    engine: EngineConfig = EngineConfig()
    backends: tuple[BackendSettings, ...] = ()
    health: HealthConfig = HealthConfig()
    routes: tuple[RouteSettings, ...] = ()
    rules: RuleSettings = RuleSettings()
    """For all routes: how replicas share the calls, and what is tried when one fails."""
    ledger: LedgerSettings = LedgerSettings()
    events: tuple[BusSettings, ...] = ()
    """Brokers that are told of every entry of the ledger."""
    discover: bool = True
    """Add every provider whose key is in the environment and every local model server found on its usual port."""
    prices: str | None = None
    """A price book of your own, instead of the bundled one."""


class Environment(Struct, frozen=True):
    """What the environment says, read once at the start."""

    home: Path
    bootstrap_key: str | None
    secret: str | None
    variables: Mapping[str, str]
    """For secrets by reference: a setting names the variable, never the secret."""


def read_environment(home: str | None = None) -> Environment:
    variables = dict(os.environ)
    default_home = variables.get("HEADGATE_HOME") or str(Path.home() / ".headgate")
    return Environment(
        home=Path(home or default_home).expanduser().resolve(),
        bootstrap_key=variables.get("HEADGATE_BOOTSTRAP_KEY") or None,
        secret=variables.get("HEADGATE_SECRET") or None,
        variables=variables,
    )


def find_file(explicit: str | None) -> Path | None:
    """The file named on the command line, else `headgate.yaml` in the working folder, else none."""
    if explicit is not None:
        path = Path(explicit)
        if not path.is_file():
            raise ConfigError(f"{path}: no such file. Leave --config out to run on the defaults.")
        return path
    path = Path(DEFAULT_FILE)
    return path if path.is_file() else None


def load(path: Path | None) -> Config:
    """Raises `ConfigError` with file, line and remedy."""
    if path is None:
        return Config()
    try:
        file = YamlFile(path, path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}:1: cannot be read: {error}") from error
    try:
        config = msgspec.convert(file.data, Config)
    except msgspec.ValidationError as error:
        raise file.error(str(error)) from error
    _check(config, file)
    return config


def _check(config: Config, file: YamlFile) -> None:
    """What types cannot say: names that must be unique, and names that must exist."""
    known = _check_backends(config, file)
    if config.engine.enabled:
        known.add(EMBEDDED)
        _check_engine(config.engine, file)
    if config.discover:
        known |= {*PROVIDERS, *LOCAL_SERVERS}
    _check_events(config, file)
    _check_chains((), config.rules, known, file)
    models: set[str] = set()
    for place, route in enumerate(config.routes):
        line = file.line_of(("routes", place))
        if route.model in models:
            raise ConfigError(f"{file.path}:{line}: the model '{route.model}' has two routes. Merge their targets.")
        models.add(route.model)
        for kind, targets in (("targets", route.targets), ("fallbacks", route.fallbacks)):
            _check_targets(("routes", place, kind), targets, known, file)
        _check_chains(("routes", place), route.rules, known, file)
        if all(target.weight == 0 for target in route.targets):
            raise ConfigError(f"{file.path}:{line}: every target of '{route.model}' has weight 0. Raise one.")


def _check_chains(where: tuple[str | int, ...], rules: RuleSettings, known: set[str], file: YamlFile) -> None:
    for kind, then in rules.on_error.items():
        if not isinstance(then, str):
            _check_targets((*where, "rules", "on_error", kind), then, known, file)


def _check_targets(
    where: tuple[str | int, ...], targets: tuple[TargetSettings, ...], known: set[str], file: YamlFile
) -> None:
    for index, target in enumerate(targets):
        if target.backend not in known:
            line = file.line_of((*where, index, "backend"))
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(f"{file.path}:{line}: there is no backend '{target.backend}'. Known are: {names}.")


def _check_engine(engine: EngineConfig, file: YamlFile) -> None:
    seen = {engine.name}
    for place, model in enumerate(engine.models):
        line = file.line_of(("engine", "models", place, "name"))
        if model.name in seen:
            raise ConfigError(f"{file.path}:{line}: two models are named '{model.name}'. Give one another name.")
        seen.add(model.name)
        try:
            engine_settings(engine.settings, model.settings)
        except ValueError as error:
            line = file.line_of(("engine", "models", place, "settings"))
            raise ConfigError(f"{file.path}:{line}: {error}. Mend the settings of '{model.name}'.") from error


def engine_settings(general: EngineSettings, differing: Mapping[str, Any]) -> EngineSettings:
    """Raises `ValueError` naming the field."""
    return msgspec.convert({**msgspec.to_builtins(general), **differing}, EngineSettings)


def _check_events(config: Config, file: YamlFile) -> None:
    seen: set[str] = set()
    for place, sink in enumerate(config.events):
        if sink.name in seen:
            line = file.line_of(("events", place))
            raise ConfigError(f"{file.path}:{line}: two events sinks are named '{sink.name}'. Give one another name.")
        seen.add(sink.name)


def _check_backends(config: Config, file: YamlFile) -> set[str]:
    """Their names."""
    seen: set[str] = set()
    replicas: set[str] = set()
    for place, backend in enumerate(config.backends):
        trouble, field = None, "name"
        if backend.name == EMBEDDED:
            trouble = f"the backend name '{EMBEDDED}' is taken by the engine. Choose another."
        elif backend.name in seen | replicas:
            trouble = f"the backend name '{backend.name}' stands twice. Choose another."
        elif backend.kind == "embedded":
            trouble, field = "the engine is set under 'engine', not as a backend. Move it there.", "kind"
        elif backend.provider is not None and backend.provider not in PROVIDERS:
            known = ", ".join(sorted(PROVIDERS))
            trouble, field = f"there is no provider '{backend.provider}'. Known are: {known}.", "provider"
        elif backend.kind == "openai" and backend.provider is None and not _placed(backend):
            trouble = f"the backend '{backend.name}' says not where it is. Give it a base_url or a provider."
        if trouble is not None:
            raise ConfigError(f"{file.path}:{file.line_of(('backends', place, field))}: {trouble}")
        seen.add(backend.name)
        for number, (one, _) in enumerate(members(backend)):
            if one.name in {EMBEDDED, *replicas} or (backend.replicas and one.name in seen):
                line = file.line_of(("backends", place, "replicas", number))
                raise ConfigError(f"{file.path}:{line}: the name '{one.name}' stands twice. Give the replica another.")
            replicas.add(one.name)
    return seen


def _placed(backend: BackendSettings) -> bool:
    """Whether it is known where each of its servers is."""
    return all(one.base_url is not None for one, _ in members(backend))


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    return msgspec.json.schema(Config)


def show(config: Config) -> dict[str, Any]:
    """The effective configuration as plain data, without secrets: passwords in URLs and header values are hidden."""
    hidden = structs.replace(
        config,
        storage=StorageSettings(
            sql=_without_password(config.storage.sql) if config.storage.sql else None,
            counters=_without_password(config.storage.counters),
        ),
        backends=tuple(
            structs.replace(
                backend,
                base_url=_without_password(backend.base_url) if backend.base_url else None,
                replicas=tuple(
                    structs.replace(one, base_url=_without_password(one.base_url) if one.base_url else None)
                    for one in backend.replicas
                ),
                headers=dict.fromkeys(backend.headers, HIDDEN),
                query={name: HIDDEN if _SECRET.search(name) else value for name, value in backend.query.items()},
            )
            for backend in config.backends
        ),
        events=tuple(
            structs.replace(sink, url=_without_password(sink.url)) if isinstance(sink, NatsSettings) else sink
            for sink in config.events
        ),
    )
    plain: dict[str, Any] = msgspec.to_builtins(hidden)
    return plain


def _without_password(url: str) -> str:
    return re.sub(r"(?<=://)([^/@:]*):[^/]*@", rf"\1:{HIDDEN}@", url)
