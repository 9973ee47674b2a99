"""Keys to replicas: the same key goes to the same replica, in every process, and few keys move when replicas change."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from math import log2

POINTS = 64
"""Of a replica of mean weight, on the ring."""
_BITS = 64.0000001
_MASK = (1 << 64) - 1
_ODD = 0x9E3779B97F4A7C15


@lru_cache(maxsize=4096)
def fingerprint(text: str) -> int:
    """64 bits that are the same in every process."""
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _mix(key: int) -> int:
    """Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014 (the finaliser of SplitMix64)."""
    key = (key ^ (key >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    key = (key ^ (key >> 27)) * 0x94D049BB133111EB & _MASK
    return key ^ (key >> 31)


def rendezvous(key: int, seeds: Sequence[int], weights: Sequence[float]) -> list[int]:
    """The places of the replicas, told by their fingerprints, in this key's order. Each is first for as many keys as
    its weight says; whoever leaves or comes moves only keys of its own.

    Thaler and Ravishankar, "A name-based mapping scheme for rendezvous", 1996; weights by Schindelhauer and
    Schomaker, "Weighted distributed hash tables", 2005.
    """
    drawn = [((key ^ seed) * _ODD & _MASK) + 1 for seed in seeds]
    if weights.count(weights[0]) < len(weights):
        scores: Sequence[float] = [weight / (_BITS - log2(each)) for each, weight in zip(drawn, weights, strict=True)]
    else:
        scores = drawn
    return sorted(range(len(seeds)), key=scores.__getitem__, reverse=True)


class Ring:
    """Points of each replica on a circle, as many as its weight says; a key belongs to the next point. Weights above 0.

    Karger et al., "Consistent hashing and random trees", 1997.
    """

    def __init__(self, seeds: Sequence[int], weights: Sequence[float]) -> None:
        mean = sum(weights) / len(weights)
        points = [
            (_mix(seed + point * _ODD & _MASK), place)
            for place, seed in enumerate(seeds)
            for point in range(max(1, round(POINTS * weights[place] / mean)))
        ]
        points.sort()
        self._starts = [start for start, _ in points]
        self._places = [place for _, place in points]
        self._replicas = len(seeds)

    def walk(self, key: int) -> Iterator[int]:
        """The places from the key's own on, each once, round the circle."""
        seen: set[int] = set()
        start = bisect_right(self._starts, _mix(key))
        size = len(self._places)
        for step in range(size):
            place = self._places[(start + step) % size]
            if place not in seen:
                seen.add(place)
                yield place
                if len(seen) == self._replicas:
                    return
