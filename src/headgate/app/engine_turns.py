"""Who gives way where models that are all in use want more memory than there is: they have it by turns.

Whoever rests gives way at once (`engine/front/memory.py`). Only where a model is called for `turn_s` seconds and finds
nobody at rest, those that were awake longest take no new calls, end what they do, and are put to sleep for it. So
nobody is shut out, and models change places once in `turn_s` at most.
"""

from collections.abc import Iterable

from msgspec import Struct

from headgate.app.inference import Inference
from headgate.core.clock import Clock

PATIENCE_S = 10.0
"""Who was not called again for so long does not want its turn any more."""
GIVE_WAY_S = 60.0
"""What is in progress may take so long; then the others go on as before."""


class Turn(Struct, frozen=True):
    """Those `leaving` give way to `one`."""

    one: Inference
    leaving: list[Inference]
    at: float


class Turns:
    """`turn_s`: 0 is never."""

    def __init__(self, turn_s: float, clock: Clock) -> None:
        self._turn_s = turn_s
        self._clock = clock
        self._wanting: dict[str, tuple[float, float]] = {}
        """By name: since when it was refused, and when last."""
        self._turn: Turn | None = None

    def refused(self, one: Inference, others: Iterable[Inference], limit_mib: int) -> Turn | None:
        """It was called, and those awake leave it no room. What is given back has just begun: they give way."""
        now = self._clock.monotonic()
        since, last = self._wanting.get(one.name, (now, now))
        since = now if now - last > PATIENCE_S else since
        self._wanting[one.name] = (since, now)
        if not self._turn_s or self._turn is not None or now - since < self._turn_s:
            return None
        leaving = _longest_awake(one, list(others), limit_mib)
        if not leaving:
            return None
        for each in leaving:
            each.process.gives_way = True
        self._turn = Turn(one, leaving, now)
        return self._turn

    def served(self, one: Inference) -> None:
        """It has its room."""
        self._wanting.pop(one.name, None)

    def due(self) -> Turn | None:
        """The turn whose time has come: all who leave have ended what they did. One that cannot be is given up."""
        turn = self._turn
        if turn is None:
            return None
        stale = turn.one.leaving or not turn.one.process.asleep
        if stale or self._clock.monotonic() - turn.at > GIVE_WAY_S:
            self.end()
            return None
        return None if any(each.client.in_flight or each.process.busy for each in turn.leaving) else turn

    def end(self) -> None:
        """Everybody takes calls again."""
        if self._turn is not None:
            self._wanting.pop(self._turn.one.name, None)
            for each in self._turn.leaving:
                each.process.gives_way = False
            self._turn = None


def _longest_awake(one: Inference, others: list[Inference], limit_mib: int) -> list[Inference]:
    """As few as make room; none where even all of them would not."""
    free = limit_mib - sum(each.mib for each in others)
    leaving: list[Inference] = []
    for each in sorted(others, key=lambda each: -each.process.up_s):
        if each.hosted.keep != "always" and each.process.state == "ready" and not each.leaving:
            leaving.append(each)
            free += each.mib
            if one.mib <= free:
                return leaving
    return []
