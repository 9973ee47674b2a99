"""Complete answers kept for bad times: bounded by bytes and by age, the oldest go first."""

from collections import OrderedDict

from msgspec import Struct

from headgate.core.events import Event, Reasoning, Text, ToolDelta

ITEM = 64
"""Bytes that an item of a stream, or an answer, is taken to need besides its text."""


class Kept(Struct, frozen=True):
    """A whole answer: `body`, or else the items of a stream."""

    at: float
    """Monotonic seconds when it was complete."""
    until: float
    size: int
    body: bytes | None = None
    items: tuple[Event | bytes, ...] = ()


class KeptAnswers:
    """The newest answer to each request, by the request's fingerprint, in this process only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()
        self.used = 0
        """Bytes."""

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes, now: float, at_most_s: float) -> Kept | None:
        kept = self._kept.get(key)
        return kept if kept is not None and now < kept.until and now - kept.at <= at_most_s else None

    def put(self, key: bytes, kept: Kept) -> None:
        """One that is larger than everything together may be is not kept."""
        self._drop(key)
        if kept.size > self._limit:
            return
        self._kept[key] = kept
        self.used += kept.size
        while self.used > self._limit or self._oldest().until <= kept.at:
            self._drop(next(iter(self._kept)))

    def _oldest(self) -> Kept:
        """There is one while the newest fits, which never goes."""
        return next(iter(self._kept.values()))

    def _drop(self, key: bytes) -> None:
        gone = self._kept.pop(key, None)
        if gone is not None:
            self.used -= gone.size


def weight(item: Event | bytes) -> int:
    """About how many bytes an item of a stream takes."""
    if isinstance(item, bytes):
        return len(item) + ITEM
    if isinstance(item, Text | Reasoning):
        return len(item.text) + ITEM
    return len(item.arguments) + ITEM if type(item) is ToolDelta else ITEM
