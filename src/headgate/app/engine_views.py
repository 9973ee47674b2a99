"""How engines are shown, in the admin API, in `/readyz` and on the terminal; and what is refused by how they stand."""

from collections.abc import Sequence

from headgate.app.inference import Inference
from headgate.app.yamlfile import ConfigError
from headgate.core.errors import Conflict
from headgate.core.hosting import EngineView, Progress
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
