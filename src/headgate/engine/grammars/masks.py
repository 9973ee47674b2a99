"""Masks of one step: beside the forward pass where that pays, else after it.

Most of a mask is computed without the lock of the interpreter (`grammar.py`), so a thread and the forward pass overlap
as far as there are processors. But handing over costs more than the masks of a small vocabulary do: those are computed
by the caller. A step's masks are all there before what was drawn is consumed: no constraint is used twice at once.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from headgate.engine.plan import Constraint, Masks

Rows = tuple[bytes, ...] | None
Wanted = tuple[Constraint, tuple[int, ...]] | None
"""What a sample is held to, with the tokens of its draft that fit; None where it is free."""
LARGE_BYTES = 4096
"""Masks from this size on, of 32,768 tokens, are computed in a thread."""


class Handle:
    """Masks on their way."""

    def __init__(self, work: "MaskWork", wanted: Sequence[Wanted], parts: Sequence["Future[list[Rows]]"]) -> None:
        self._work = work
        self._wanted = wanted
        self._parts = parts

    def result(self) -> Masks:
        """In the order of what was wanted. To be called once, before anything is consumed."""
        if not self._parts:
            masks = _computed(self._wanted)
        else:
            masks = [None] * len(self._wanted)
            for first, part in enumerate(self._parts):
                masks[first :: len(self._parts)] = part.result()
        self._work.learn(masks)
        return tuple(masks)


class MaskWork:
    """A few threads that compute masks. Until one is known, they are taken for small."""

    def __init__(self, threads: int = 1) -> None:
        self._count = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="masks")
        self._large = False

    def start(self, wanted: Sequence[Wanted]) -> Handle:
        """Begins; what is free costs nothing."""
        parts: list[Future[list[Rows]]] = []
        if self._large and any(wanted):
            count = min(self._count, len(wanted))
            parts = [self._threads.submit(_computed, wanted[first::count]) for first in range(count)]
        return Handle(self, wanted, parts)

    def learn(self, masks: Sequence[Rows]) -> None:
        """Called by handles."""
        self._large = self._large or any(rows is not None and len(rows[0]) >= LARGE_BYTES for rows in masks)

    def close(self) -> None:
        self._threads.shutdown()


def _computed(wanted: Sequence[Wanted]) -> list[Rows]:
    return [None if one is None else one[0].masks(one[1]) for one in wanted]
