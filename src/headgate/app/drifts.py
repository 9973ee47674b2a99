"""Looks after our own encoders: whether each still gives the numbers it gave, now and since the first start."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from headgate.app.inference import Inference
from headgate.core.clock import Clock
from headgate.core.tasks import Tasks
from headgate.engine.encoding.client import EncoderClient
from headgate.telemetry import names
from headgate.telemetry.log import Log

CHECK_S = 60.0
"""Between two checks of an encoder that is used. One that is not used is left to sleep."""
REMEDY = "compute stored vectors anew, then remove the record and restart; or bring the earlier model back"


class _Checked:
    """As it was when it was looked at last."""

    def __init__(self, starts: int, requests: int, at: float) -> None:
        self.starts, self.requests, self.at = starts, requests, at


class Drifts:
    """`folder`: where it is kept what each encoder gave first; None keeps nothing."""

    def __init__(self, folder: Path | None, clock: Clock, log: Log, tasks: Tasks) -> None:
        self._folder = folder
        self._clock = clock
        self._log = log
        self._tasks = tasks
        self._checked: dict[str, _Checked] = {}

    def adopt(self, one: Inference) -> None:
        """To be called before the model is launched. Nothing is done about decoders."""
        drift = one.drift
        if drift is None:
            return
        record = drift.record = self._folder and self._folder / f"{quote(one.name, safe='')}.json"
        drift.told = lambda distance: self._log.event(
            names.ENCODER_CHANGED, "warning", model=one.name, distance=distance, record=str(record), remedy=REMEDY
        )
        drift.unkept = lambda error: self._log.event(
            names.ENCODER_CHANGED, "error", model=one.name, detail=f"what it gave at first cannot be kept: {error}"
        )

    def look(self, models: Iterable[Inference]) -> None:
        """Checks those that were started since, or used for a while; returns at once."""
        now, checked = self._clock.monotonic(), self._checked
        encoders = [(one, one.client) for one in models if isinstance(one.client, EncoderClient)]
        self._checked = {one.name: checked[one.name] for one, _ in encoders if one.name in checked}
        for one, client in encoders:
            seen = checked.get(one.name)
            fresh = seen is None or seen.starts != one.process.starts
            used = seen is not None and now - seen.at >= CHECK_S and client.stats.requests > seen.requests
            if one.state == "ready" and (fresh or used):
                # the check's own request is no use
                self._checked[one.name] = _Checked(one.process.starts, client.stats.requests + 1, now)
                self._tasks.spawn(self._check(one), f"check {one.name}")

    async def _check(self, one: Inference) -> None:
        health = await one.backend.probe()
        if not health.ok and one.state == "ready":
            self._log.event(names.ENCODER_CHANGED, "error", model=one.name, detail=health.detail)
