"""What a server holds: memory, descriptors, tasks, and its gauges of work; and whether it grows."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.live import Live

AT_REST = (
    "headgate_calls_in_flight",
    "headgate_calls_waiting",
    "headgate_backend_calls_in_flight",
    "headgate_backend_calls_waiting",
    "headgate_streams_resumable",
    "headgate_streams_in_progress",
    "headgate_streams_held_bytes",
    "headgate_ledger_unshipped_bytes",
    "headgate_limits_degraded",
)
"""Gauges that are zero when nobody calls, whatever their labels."""


@dataclass(frozen=True)
class Reading:
    """Of one moment."""

    rss_mb: float
    descriptors: int
    """Open ones; those of the database's pool left out, which has as many connections as were needed once."""
    tasks: int
    work: dict[str, float]
    """The gauges of `AT_REST` that are not zero."""

    def back_at(self, start: "Reading") -> bool:
        """Nothing is held that was not at the start; memory is judged by its slope."""
        return self.descriptors <= start.descriptors and self.tasks <= start.tasks and not self.work

    def plain(self) -> dict[str, object]:
        return asdict(self) | {"rss_mb": round(self.rss_mb, 1)}


def read(live: Live) -> Reading:
    work, tasks = {}, 0
    for line in live.get("/metrics")[1].decode().splitlines():
        series, _, value = line.rpartition(" ")
        name = series.partition("{")[0]
        if name in AT_REST and float(value):
            work[series] = float(value)
        elif name == "headgate_tasks":
            tasks = int(float(value))
    return Reading(live.rss_mb(), _descriptors(live.process.pid), tasks, work)


def _descriptors(process: int) -> int:
    found = 0
    for entry in Path(f"/proc/{process}/fd").iterdir():
        try:
            found += ".db" not in entry.readlink().name
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def waited_for_cpu(live: Live) -> float:
    """Seconds for which the server could have run and had no processor: how busy the machine was with other things."""
    return int(Path(f"/proc/{live.process.pid}/schedstat").read_text().split()[1]) / 1e9


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the straight line with the least squares through them; 0 where there are too few."""
    if len(points) < 2:
        return 0.0
    x_mean = sum(x for x, _ in points) / len(points)
    y_mean = sum(y for _, y in points) / len(points)
    below = sum((x - x_mean) ** 2 for x, _ in points)
    return sum((x - x_mean) * (y - y_mean) for x, y in points) / below if below else 0.0
