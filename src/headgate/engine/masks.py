"""Masks of one step, computed in a thread beside the forward pass.

Most of a mask is computed without the lock of the interpreter (`grammar.py`), so the two overlap as far as there are
processors. A step's masks are all there before what was drawn is consumed: no constraint is used twice at once.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from headgate.engine.plan import Constraint, Masks

Rows = tuple[bytes, ...] | None
Wanted = tuple[Constraint, tuple[int, ...]] | None
"""What a sample is held to, with the tokens of its draft that fit; None where it is free."""


class Handle:
    """Masks on their way."""

    def __init__(self, wanted: Sequence[Wanted], parts: Sequence[tuple[list[int], "Future[list[Rows]]"]]) -> None:
        self._count = len(wanted)
        self._parts = parts

    def result(self) -> Masks:
        """Waits for them; in the order of what was wanted. To be called once, before anything is consumed."""
        masks: list[Rows] = [None] * self._count
        for places, part in self._parts:
            for place, rows in zip(places, part.result(), strict=True):
                masks[place] = rows
        return tuple(masks)


class MaskWork:
    """A few threads that compute masks."""

    def __init__(self, threads: int = 1) -> None:
        self._count = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="masks")

    def start(self, wanted: Sequence[Wanted]) -> Handle:
        """Begins; what is free costs nothing."""
        held = [place for place, one in enumerate(wanted) if one is not None]
        parts: list[tuple[list[int], Future[list[Rows]]]] = []
        for first in range(min(self._count, len(held))):
            places = held[first :: self._count]
            parts.append((places, self._threads.submit(_computed, [wanted[place] for place in places])))
        return Handle(wanted, parts)

    def close(self) -> None:
        self._threads.shutdown()


def _computed(wanted: Sequence[Wanted]) -> list[Rows]:
    return [None if one is None else one[0].masks(one[1]) for one in wanted]
