"""A replica that stands still (SIGSTOP) and goes on, and one that is five times slower than the others."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tests.storms.figures import Figures, first_ms, ms, quantile
from tests.storms.load import Heard, storm
from tests.storms.stand import FIRST_MS, RATE, Stand

SLOWER = 5
SLOW_ARGUMENTS = ("--first-ms", str(SLOWER * FIRST_MS), "--rate", str(RATE / SLOWER))
"""Of a chaos upstream; later options replace earlier ones."""


@dataclass(frozen=True)
class Course:
    """A run of three parts, in seconds: all well, one stopped, all well again."""

    rate: float
    calm_s: float
    stopped_s: float
    back_s: float

    @property
    def thaw_s(self) -> float:
        return self.calm_s + self.stopped_s

    @property
    def seconds(self) -> float:
        return self.thaw_s + self.back_s


def frozen(stand: Stand, course: Course) -> tuple[Figures, list[Heard]]:
    """The last replica of the pool is stopped under load and let go on: no call is lost, and it takes calls again."""
    ill, name = stand.pool[-1], f"pool-{len(stand.pool)}"
    known = len(stand.told(name))

    async def run() -> tuple[list[Heard], float, float]:
        load = asyncio.create_task(storm(stand.source("frozen", model="plain"), course.rate, course.seconds))
        await asyncio.sleep(0)
        began = time.time()
        try:
            await asyncio.sleep(course.calm_s)
            ill.freeze()
            stopped = time.time()
            await asyncio.sleep(began + course.thaw_s - stopped)
        finally:
            ill.thaw()
        return await load, stopped, began

    heard, stopped, began = asyncio.run(run())
    stand.settled()
    books = stand.books(heard, "frozen")
    told = stand.right(heard)
    states = stand.told(name)[known:]
    out = [at for at, state, _ in states if state != "closed"]
    assert out, "never out of rotation"
    back = [at for at, state, _ in states if state == "closed"]
    found = {
        "rate": course.rate,
        "seconds": course.seconds,
        **told,
        "stopped_at_s": course.calm_s,
        "thawed_at_s": course.thaw_s,
        "out_after_s": round(out[0] - stopped, 2),
        "why": states[0][2],
        "back_after_s": round(back[-1] - began - course.thaw_s, 2) if back else None,
        **_waits(heard, course),
        "share_after_pct": _share(heard, name, course.seconds - course.back_s / 3),
        "limits": stand.limits(),
        "reasons": books.reasons,
        "failures": books.failures,
    }
    return found, heard


def _waits(heard: Sequence[Heard], course: Course) -> Figures:
    streams = [call for call in heard if call.stream and call.wait_s is not None]
    calm = quantile((call.wait_s or 0 for call in streams if call.due_s < course.calm_s), 0.99)
    away = [call for call in streams if course.calm_s <= call.due_s < course.thaw_s]
    later = [call for call in away if call.due_s >= course.calm_s + 10]
    # Of the seconds since the stop the last one in which more calls were late than one in a hundred.
    late = Counter(int(call.due_s - course.calm_s) for call in away if (call.wait_s or 0) > 1.5 * calm)
    every = Counter(int(call.due_s - course.calm_s) for call in away)
    slow = [second for second, count in late.items() if count > 0.01 * every[second] + 1]
    return {
        "calm_ttft_p99_ms": ms(calm),
        "ten_seconds_on_ttft_p99_ms": ms(quantile((call.wait_s or 0 for call in later), 0.99)),
        "baseline_again_after_s": max(slow) + 1 if slow else 0,
        "worst_ttft_ms": ms(max(call.wait_s or 0 for call in away)),
    }


def _share(heard: Sequence[Heard], name: str, since_s: float) -> float:
    """Of the answers to calls due since then, in percent."""
    who = Counter(call.replica for call in heard if call.due_s >= since_s)
    return round(100 * who[name] / max(1, who.total()), 1)


def slow(stand: Stand, rate: float, seconds: float) -> Figures:
    """The last replica of the pool is five times slower from the start: what it gets once that is known, after a third
    of the time.
    """
    heard = asyncio.run(storm(stand.source("slow", model="plain"), rate, seconds))
    stand.settled()
    stand.books(heard, "slow")
    told = stand.right(heard)
    name, fair = f"pool-{len(stand.pool)}", 100 / len(stand.pool)
    share = _share(heard, name, seconds / 3)
    return {
        "rate": rate,
        "seconds": seconds,
        **told,
        **first_ms([call for call in heard if call.due_s >= seconds / 3]),
        "share_pct": share,
        "fair_share_pct": fair,
        "of_its_fair_share": round(share / fair, 3),
        "share_at_first_pct": _share([call for call in heard if call.due_s < seconds / 3], name, 0),
    }
