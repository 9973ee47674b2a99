"""The storms at their full size, each on a stand of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.storms.figures import Figures
from tests.storms.freezing import SLOW_ARGUMENTS, Course, frozen, slow
from tests.storms.load import Heard
from tests.storms.retrying import retried
from tests.storms.runs import Size, chaos, faults, hedged, switched
from tests.storms.stand import MAX_EXTRA, standing

NO_BREAKER = {"failures": 10_000, "min_calls": 10_000}


@dataclass(frozen=True)
class Wish:
    """What is asked for instead of the storm's own size."""

    rate: float | None = None
    seconds: float | None = None

    def size(self, rate: float, seconds: float) -> Size:
        return Size(self.rate or rate, self.seconds or seconds)


Shown = tuple[Figures, list[Heard]]


def _faults(folder: Path, wish: Wish) -> Shown:
    with standing(folder) as stand:
        return faults(stand, wish.size(200, 60), calm_s=20), []


def _frozen(folder: Path, wish: Wish) -> Shown:
    size = wish.size(100, 75)
    with standing(folder, 4) as stand:
        part = size.seconds / 5
        return frozen(stand, Course(size.rate, part, 2 * part, 2 * part))


def _slow(folder: Path, wish: Wish) -> Shown:
    size = wish.size(100, 60)
    with standing(folder, [(), (), (), SLOW_ARGUMENTS]) as stand:
        return slow(stand, size.rate, size.seconds), []


def _retried(folder: Path, wish: Wish) -> Shown:
    size = wish.size(50, 30)
    with standing(folder) as stand:
        return retried(stand, size.rate, size.seconds), []


def _unbroken(folder: Path, wish: Wish) -> Shown:
    """Without breakers and ejections: the retry budget has to do it alone."""
    size = wish.size(50, 30)
    health = {"breaker": NO_BREAKER, "outliers": {"max_share": 0}}
    with standing(folder, health=health) as stand:
        return retried(stand, size.rate, size.seconds), []


def _chaos(folder: Path, wish: Wish) -> Shown:
    with standing(folder) as stand:
        return chaos(stand, wish.size(20, 600)), []


def _hedged(folder: Path, wish: Wish) -> Shown:
    with standing(folder) as stand:
        return hedged(stand, wish.size(60, 40), MAX_EXTRA), []


def _switched(folder: Path, wish: Wish) -> Shown:
    with standing(folder) as stand:
        return switched(stand, wish.size(100, 15)), []


STORMS: Mapping[str, Callable[[Path, Wish], Shown]] = {
    "faults": _faults,
    "frozen": _frozen,
    "slow": _slow,
    "retried": _retried,
    "retried-without-breakers": _unbroken,
    "hedged": _hedged,
    "switched": _switched,
    "chaos": _chaos,
}
