"""Who goes next where calls wait: weighted fair queues by tenant, in classes of priority.

A state machine: time is an argument, nothing waits here. Within a class this is start-time fair queueing (Goyal, Vin,
Cheng: "Start-time Fair Queueing", SIGCOMM 1996): the tenant whose next call has the lowest start tag is served, and
serving a call of cost c moves its tenant's tag on by c / weight. The tag is kept by tenant, not by call, so a call that
leaves unserved costs its tenant nothing. A tenant that comes back starts at the class's virtual time: idle time is no
credit. Where a class has run empty its tags are forgotten.

Between classes the higher one is served first, but a call that has waited `ageing_s` in its class moves up by one, so
nothing starves. push, pop and remove cost O(log n), and `ahead` O(tenants waiting).
"""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from msgspec import Struct

from headgate.core.policy import PRIORITIES, Priority

REMEMBERED_TENANTS = 10_000
"""Tenants whose past service a class remembers while they have nothing waiting."""
T = TypeVar("T", bound=Hashable)
_CLASS: dict[Priority, int] = {priority: place for place, priority in enumerate(PRIORITIES)}


class Ahead(Struct, frozen=True):
    """What is served before a call, if nobody else comes."""

    work: float
    calls: float


class _Entry(Generic[T]):
    """One waiting call."""

    __slots__ = ("cost", "item", "joined", "lane", "place", "tenant", "weight")
    lane: "_Lane[T]"
    joined: float
    """Since when it waits in the class where it is now."""

    def __init__(self, tenant: str, weight: float, cost: float, place: int, item: T) -> None:
        self.tenant = tenant
        self.weight = weight
        self.cost = cost
        self.place = place
        self.item = item


class _Lane(Generic[T]):
    """The calls of one tenant in one class, first come first served."""

    __slots__ = ("entries", "in_heap", "start", "weight", "work")

    def __init__(self, weight: float) -> None:
        self.entries: OrderedDict[T, _Entry[T]] = OrderedDict()
        self.work = 0.0
        self.start = 0.0
        """Start tag of the next call, whichever it is."""
        self.weight = weight
        self.in_heap = False


class _Class(Generic[T]):
    """The fair queue of one priority."""

    def __init__(self) -> None:
        self.virtual = 0.0
        """The start tag of the call served last."""
        self.work = 0.0
        self.joined: OrderedDict[T, _Entry[T]] = OrderedDict()
        """All that wait, the longest in this class first."""
        self.lanes: dict[str, _Lane[T]] = {}
        self._heap: list[tuple[float, int, _Lane[T]]] = []
        self._order = itertools.count()

    def add(self, entry: _Entry[T], now: float) -> None:
        lane = self.lanes.get(entry.tenant)
        if lane is None:
            self._forget()
            lane = self.lanes[entry.tenant] = _Lane(entry.weight)
        if not lane.entries:
            lane.start = max(lane.start, self.virtual)
        lane.weight = entry.weight
        lane.entries[entry.item] = entry
        lane.work += entry.cost
        entry.lane = lane
        entry.joined = now
        self.joined[entry.item] = entry
        self.work += entry.cost
        self._offer(lane)

    def take(self, entry: _Entry[T]) -> None:
        """Out, unserved: the tenant's tag stays. Its place in the heap is found empty later."""
        lane = entry.lane
        del lane.entries[entry.item]
        del self.joined[entry.item]
        lane.work = lane.work - entry.cost if lane.entries else 0.0  # no rest of rounding stays behind
        self.work -= entry.cost
        if not self.joined:
            self._reset()

    def serve(self) -> _Entry[T]:
        """The next call. The class must not be empty."""
        while True:
            tag, _, lane = heapq.heappop(self._heap)
            lane.in_heap = False
            if not lane.entries:
                continue
            if tag == lane.start:
                break
            self._offer(lane)  # it was empty for a while, and its tag moved
        entry = next(iter(lane.entries.values()))
        self.virtual = lane.start
        lane.start += entry.cost / entry.weight
        self.take(entry)
        if lane.entries:
            self._offer(lane)
        return entry

    def waiting(self) -> Iterator[tuple[str, _Lane[T]]]:
        return ((tenant, lane) for tenant, lane in self.lanes.items() if lane.entries)

    def _offer(self, lane: _Lane[T]) -> None:
        if not lane.in_heap:
            lane.in_heap = True
            heapq.heappush(self._heap, (lane.start, next(self._order), lane))

    def _reset(self) -> None:
        self.virtual = 0.0
        self.work = 0.0
        self.lanes.clear()
        self._heap.clear()

    def _forget(self) -> None:
        """Bounds the memory of tenants with nothing waiting. Each is spared at most one call's cost by it."""
        if len(self.lanes) < len(self.joined) + REMEMBERED_TENANTS:
            return
        self.lanes = dict(self.waiting())
        self._heap = [place for place in self._heap if place[2].entries]
        heapq.heapify(self._heap)


class FairQueue(Generic[T]):
    """Calls that wait, each known by its `item`. Costs and weights are above zero; `now` (seconds) never goes back."""

    def __init__(self, ageing_s: float) -> None:
        self.ageing_s = ageing_s
        self._entries: dict[T, _Entry[T]] = {}
        self._classes: list[_Class[T]] = [_Class() for _ in PRIORITIES]

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, item: T) -> bool:
        return item in self._entries

    def push(self, tenant: str, weight: float, cost: float, priority: Priority, now: float, item: T) -> None:
        """Raises `ValueError` for an item that waits already, or a cost or weight that is not above zero."""
        if item in self._entries or not (cost > 0 and weight > 0):
            raise ValueError("item: push each once, with a cost and a weight above zero")
        self._age(now)
        place = _CLASS[priority]
        entry = self._entries[item] = _Entry(tenant, weight, cost, place, item)
        self._classes[place].add(entry, now)

    def pop(self, now: float) -> T | None:
        """Who is served now; None where nobody waits."""
        self._age(now)
        for each in self._classes:
            if each.joined:
                item = each.serve().item
                del self._entries[item]
                return item
        return None

    def remove(self, item: T) -> bool:
        """Takes a call out unserved. False where it does not wait."""
        entry = self._entries.pop(item, None)
        if entry is None:
            return False
        self._classes[entry.place].take(entry)
        return True

    def ahead(self, item: T) -> Ahead:
        """What is served before a waiting call. Raises `KeyError` where it does not wait."""
        entry = self._entries[item]
        work, calls = 0.0, 0
        for other in entry.lane.entries.values():
            if other is entry:
                break
            work += other.cost
            calls += 1
        return self._ahead(entry.place, entry.tenant, entry.weight, Ahead(work, calls))

    def ahead_of_new(self, tenant: str, weight: float, priority: Priority) -> Ahead:
        """What would be served before a call that came now."""
        place = _CLASS[priority]
        lane = self._classes[place].lanes.get(tenant)
        own = Ahead(0.0, 0) if lane is None else Ahead(lane.work, len(lane.entries))
        return self._ahead(place, tenant, weight, own)

    def gives_way(self, tenant: str, weight: float, priority: Priority) -> T | None:
        """Who leaves a full queue so that a call of `tenant` can come in; None where it is the newcomer who cannot.

        The newest call of the lowest class of the tenant with the most calls waiting for its weight: so each tenant
        has its share of the places by weight, and one that floods the queue only evicts its own.
        """
        counts: dict[str, list[float]] = {tenant: [1 / weight, _CLASS[priority]]}
        for place, each in enumerate(self._classes):
            for name, lane in each.waiting():
                share = len(lane.entries) / lane.weight
                known = counts.setdefault(name, [0.0, place])
                known[0] += share
                known[1] = max(known[1], place)
        # Of equals the lower class gives way, and then the newcomer, who has waited least.
        worst = max(counts, key=lambda name: (*counts[name], name == tenant))
        place = int(counts[worst][1])
        lane_or_none = self._classes[place].lanes.get(worst)
        if worst == tenant and (lane_or_none is None or place == _CLASS[priority]):
            return None
        return next(reversed(self._classes[place].lanes[worst].entries))

    def _age(self, now: float) -> None:
        for place in range(1, len(self._classes)):
            lower = self._classes[place]
            while lower.joined:
                entry = next(iter(lower.joined.values()))
                if now - entry.joined < self.ageing_s:
                    break
                lower.take(entry)
                entry.place = place - 1
                self._classes[place - 1].add(entry, now)

    def _ahead(self, place: int, tenant: str, weight: float, own: Ahead) -> Ahead:
        work, calls = own.work, own.calls
        for higher in self._classes[:place]:
            work += higher.work
            calls += len(higher.joined)
        each = self._classes[place]
        lane = each.lanes.get(tenant)
        start = each.virtual if lane is None else lane.start if lane.entries else max(lane.start, each.virtual)
        tag = start + own.work / weight
        for name, other in each.waiting():
            if name != tenant and other.start <= tag:
                # Those whose start tags lie before ours: the work that fits between, and half a call for rounding up.
                mean = other.work / len(other.entries)
                before = min(other.work, (tag - other.start) * other.weight + mean / 2)
                work += before
                calls += before / mean
        return Ahead(work, calls)
