"""How engines are shown, in the admin API, in `/readyz` and on the terminal; and what is refused by how they stand."""

from collections.abc import Mapping, Sequence

from headgate.app.inference import Inference
from headgate.app.yamlfile import ConfigError
from headgate.core.errors import Conflict
from headgate.core.hosting import EngineView, Progress
from headgate.engine.front.client import EngineClient
from headgate.engine.wire import Loading


def view(one: Inference) -> EngineView:
    hosted, process = one.hosted, one.process
    trouble = str(process.refused) if process.refused is not None else process.trouble
    return EngineView(
        id=one.name,
        model=hosted.model,
        state=one.state,
        pid=process.pid,
        keep=hosted.keep,
        origin=hosted.origin,
        memory_mib=one.mib,
        requests=one.client.in_flight,
        idle_seconds=round(one.idle_s, 3),
        restarts=process.restarts,
        ready_seconds=round(process.start_s, 3),
        start_seconds={name: round(seconds, 6) for name, seconds in process.phases.items()},
        progress=_progress(process.progress),
        trouble=trouble or None,
    )


def standing(one: Inference) -> dict[str, object]:
    """For `/readyz`."""
    shown = view(one)
    found: dict[str, object] = {
        "state": shown.state, "start_seconds": shown.start_seconds, "restarts": shown.restarts
    }  # fmt: skip
    if shown.trouble is not None:
        found["trouble"] = shown.trouble
    if shown.progress is not None:
        found["progress"] = shown.progress
    return found


def shown(progress: Loading | None) -> str:
    """` (weights 40% of 988 MiB)`, or less where less is known."""
    if progress is None:
        return ""
    if not progress.total:
        return f" ({progress.phase})"
    return f" ({progress.phase} {progress.done / progress.total:.0%} of {progress.total / 2**20:.0f} MiB)"


def starting(models: Mapping[str, Inference]) -> bool:
    """Whether waiting can help: a model that is refused, or asleep, does not become ready by itself."""
    return any(one.process.state in {"loading", "restarting"} for one in models.values())


def troubles(models: Mapping[str, Inference]) -> str:
    """Which models cannot be used now and why, for people."""
    out = [view(one) for one in models.values() if one.state not in {"ready", "asleep"}]
    return "; ".join(f"'{one.id}' is {one.state}" + (f": {one.trouble}" if one.trouble else "") for one in out)


def to_try(offered: Sequence[str], models: Mapping[str, Inference]) -> str | None:
    """Of the names that callers see, one that writes text: one of our own, which costs nothing, before others."""
    writers = [one.name for one in models.values() if isinstance(one.client, EngineClient) and one.state != "refused"]
    others = [name for name in offered if name not in models]
    return next((name for name in (*writers, *others) if name in offered), None)


def check_room(cap: int, models: Sequence[Inference]) -> None:
    """What can never be in force is said before the start. Raises `ConfigError`."""
    staying = [one for one in models if one.hosted.keep == "always"]
    for some in (staying, *([one] for one in models if not one.hosted.lazy)):
        if cap and sum(one.mib for one in some) > cap:
            sizes = ", ".join(f"'{one.name}' {one.mib}" for one in some)
            raise ConfigError(f"engine.memory_mib: {cap} MiB do not hold {sizes}. Raise it, or leave models out.")


def check_idle(one: Inference) -> None:
    """Raises `Conflict` for one that cannot be put to sleep now."""
    if one.state not in {"ready", "asleep"} or one.client.in_flight or one.process.busy:
        raise Conflict(
            f"'{one.name}' is {one.state} with {one.client.in_flight} requests in progress; only an idle one can be "
            "put to sleep. Try again later, or unload it.",
            code="engine_busy",
        )


def _progress(progress: Loading | None) -> Progress | None:
    return None if progress is None else Progress(progress.phase, progress.done, progress.total)
