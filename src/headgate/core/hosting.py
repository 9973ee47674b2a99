"""The models in this server's care, as the admin API sees them."""

from typing import Any, Literal

from msgspec import Struct

EngineState = Literal["loading", "ready", "asleep", "restarting", "refused", "unloading", "closed"]
Keep = Literal["always", "idle"]


class Progress(Struct, frozen=True):
    """How far a start has come. `done` and `total` are bytes; both are 0 in phases that read none."""

    phase: str
    done: int
    total: int


class EngineView(Struct, frozen=True, kw_only=True):
    """One model and its process in this server."""

    id: str
    """The name callers use."""
    object: Literal["headgate.engine"] = "headgate.engine"
    model: str
    """As it was asked for: a folder, `bundled` or `package:NAME`."""
    state: EngineState
    pid: int | None
    """Of its process, while there is one."""
    keep: Keep
    origin: Literal["settings", "api"]
    memory_mib: int
    """What it takes when awake: weights, the full KV cache, the process."""
    requests: int
    """In progress."""
    idle_seconds: float
    restarts: int
    ready_seconds: float
    """How long the latest start took."""
    start_seconds: dict[str, float]
    """Its parts."""
    progress: Progress | None
    trouble: str | None
    """Why it does not run, or did not at last."""


class LoadSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model to load. `model`: a folder below `engine.models_dir`, `bundled` or `package:NAME`."""

    name: str
    model: str
    settings: dict[str, Any] = {}
    """What differs from `engine.settings`."""
    keep: Keep = "idle"


class Memory(Struct, frozen=True):
    """MiB of the models awake, and what they may take together; 0: no limit."""

    used_mib: int
    limit_mib: int
