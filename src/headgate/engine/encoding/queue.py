"""Which texts are computed next, and whether to wait for more of them first. Pure.

Requests take turns by the tokens they have had (start-time fair queueing, Goyal et al., SIGCOMM 1996): each text is
marked with the tokens that its request had before it, and the lowest mark is next. A request of two thousand texts so
delays one of a single text by a step at most. What a request is charged is multiplied by how many its tenant has open,
and by four for each class it stands below the first, so that neither many requests nor long ones buy a larger share,
and the last class still moves.
"""

from collections import Counter
from collections.abc import Sequence
from heapq import heapify, heappop, heappush, heapreplace

from headgate.engine.plan import NOBODY, Share

CLASS_WEIGHT = 4.0
ENOUGH = 0.5
"""A batch filled this far is computed nearly as fast per token as a full one: nothing is won by waiting."""


class _Request:
    __slots__ = ("key", "lengths", "next", "places", "share")

    def __init__(self, key: int, places: Sequence[int], lengths: Sequence[int], share: Share) -> None:
        self.key = key
        self.places = places
        self.lengths = lengths
        self.next = 0
        self.share = share


class TextQueue:
    """Bounded by who adds: `waiting` says how many texts there are."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Request]] = []
        self._requests: dict[int, _Request] = {}
        self._open: Counter[str] = Counter()
        self._now = 0.0
        """The mark of the text that was taken last: newcomers begin there, not at what others had long ago."""
        self.waiting = 0
        self.tokens = 0

    @property
    def requests(self) -> int:
        """Requests with texts that wait."""
        return len(self._requests)

    def add(self, key: int, lengths: Sequence[int], places: Sequence[int], share: Share = NOBODY) -> None:
        """The texts at `places` of a request, `lengths[place]` tokens each; short ones first, so that batches are even.

        At least one.
        """
        self._open[share.tenant] += 1
        request = _Request(key, sorted(places, key=lengths.__getitem__), lengths, share)
        self._requests[key] = request
        heappush(self._heap, (self._now, key, request))
        self.waiting += len(places)
        self.tokens += sum(lengths[place] for place in places)

    def cancel(self, key: int) -> None:
        """What has ended meanwhile is none of its business."""
        request = self._requests.get(key)
        if request is None:
            return
        left = request.places[request.next :]
        self.waiting -= len(left)
        self.tokens -= sum(request.lengths[place] for place in left)
        self._heap = [entry for entry in self._heap if entry[2] is not request]
        heapify(self._heap)
        self._ended(request)

    def take(self, budget: int) -> list[tuple[int, int]]:
        """The next texts, as (request, place): as many as have no more than `budget` tokens together, or else one."""
        taken: list[tuple[int, int]] = []
        while self._heap:
            mark, _, request = self._heap[0]
            place = request.places[request.next]
            length = request.lengths[place]
            if taken and length > budget:
                break
            budget -= length
            taken.append((request.key, place))
            self._now = mark
            self.waiting -= 1
            self.tokens -= length
            request.next += 1
            if request.next < len(request.places):
                heapreplace(self._heap, (mark + self._charge(length, request.share), request.key, request))
            else:
                heappop(self._heap)
                self._ended(request)
        return taken

    def _charge(self, tokens: int, share: Share) -> float:
        return tokens * self._open[share.tenant] * CLASS_WEIGHT**share.priority

    def _ended(self, request: _Request) -> None:
        del self._requests[request.key]
        tenant = request.share.tenant
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]


class Window:
    """How long to wait for more texts before a step.

    Callers who were just answered are likely to ask again at once. So after a step, the next waits until as many
    requests are there as there were before it, but never longer than `window_s` after the step's end, and not at all
    where half a batch is there already. Whoever comes to an idle engine, or is alone with it, never waits.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._until = 0.0
        self._expected = 0

    def stepped(self, now: float, answered: int, left: int) -> None:
        """A step has ended that completed `answered` requests and left `left`."""
        self._until = now + self._window_s
        self._expected = answered + left

    def hold(self, now: float, queue: TextQueue, budget: int) -> float:
        """Seconds to wait, at most; 0: compute."""
        if queue.requests == 0 or queue.requests >= self._expected or queue.tokens >= budget * ENOUGH:
            return 0.0
        return max(0.0, self._until - now)
