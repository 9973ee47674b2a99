"""Which replica has which prompts in its cache, by our own memory of what was sent where; and what all prompts share.

Approximate on purpose: a model server says nothing of its cache. What it dropped costs a prompt computed again.
"""

from collections.abc import Sequence
from functools import lru_cache

HELD_MOST = 4096
"""Blocks remembered per replica, about a million tokens; the oldest go first."""
WINDOW = 512
"""Prompts in one generation of the count of what is shared; two are looked at."""
SURE = 16
"""Fewer prompts than this say nothing of what is shared."""
LOOK_AHEAD = 8
"""Blocks counted beyond those known to be shared: a long preamble is learned by so many at once."""


class Prefixes:
    """The blocks each replica holds. One index for all, so that a look-up is one step per block, however many replicas.

    Replicas are slots, small numbers that `slot` gives out and `drop` takes back.
    """

    def __init__(self, held_most: int = HELD_MOST) -> None:
        self._held_most = held_most
        self._index: dict[int, int] = {}
        """Of each block, the slots that hold it, as bits."""
        self._held: dict[int, dict[int, None]] = {}
        """Of each slot, its blocks; those used longest ago first."""

    def slot(self) -> int:
        number = 0
        while number in self._held:
            number += 1
        self._held[number] = {}
        return number

    def drop(self, slot: int) -> None:
        for block in self._held.pop(slot, ()):
            self._clear(block, slot)

    def matches(self, blocks: Sequence[int]) -> dict[int, int]:
        """Of each slot that holds a beginning of these blocks: how many of them."""
        found: dict[int, int] = {}
        index = self._index
        holders = -1
        depth = 0
        for block in blocks:
            still = holders & index.get(block, 0)
            if still != holders:
                if depth:
                    found.update(dict.fromkeys(_slots(holders & ~still), depth))
                if not still:
                    return found
                holders = still
            depth += 1
        if depth:
            found.update(dict.fromkeys(_slots(holders), depth))
        return found

    def match(self, slot: int, blocks: Sequence[int]) -> int:
        """How many of these blocks, from the first on, the slot holds."""
        held = self._held.get(slot, {})
        for depth, block in enumerate(blocks):
            if block not in held:
                return depth
        return len(blocks)

    def remember(self, slot: int, blocks: Sequence[int]) -> None:
        """The slot computes these blocks now. The last become the oldest of them: a cache drops an end before its
        beginning."""
        held = self._held.get(slot)
        if held is None:
            return
        bit = 1 << slot
        index = self._index
        for block in reversed(blocks):
            if block in held:
                del held[block]
            else:
                index[block] = index.get(block, 0) | bit
            held[block] = None
        while len(held) > self._held_most:
            block = next(iter(held))
            del held[block]
            self._clear(block, slot)

    def __len__(self) -> int:
        """Blocks remembered, over all slots."""
        return sum(map(len, self._held.values()))

    def _clear(self, block: int, slot: int) -> None:
        left = self._index[block] & ~(1 << slot)
        if left:
            self._index[block] = left
        else:
            del self._index[block]


@lru_cache(maxsize=4096)
def _slots(bits: int) -> tuple[int, ...]:
    """The slots of these bits. The same few sets come again and again."""
    return tuple(slot for slot in range(bits.bit_length()) if bits >> slot & 1)


class Preamble:
    """Learns how prompts begin that are otherwise different. Two generations of `WINDOW` prompts are counted."""

    def __init__(self) -> None:
        self._now: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._prompts = 0
        self._prompts_before = 0

    def shared(self, blocks: Sequence[int], share: float) -> int:
        """How many blocks, from the first on, stand in more than `share` of the recent prompts."""
        prompts = self._prompts + self._prompts_before
        least = max(SURE, share * prompts)
        for depth, block in enumerate(blocks):
            if self._now.get(block, 0) + self._before.get(block, 0) <= least:
                return depth
        return len(blocks)

    def learn(self, blocks: Sequence[int], shared: int) -> None:
        """Counts a prompt of which so many blocks are known to be shared."""
        if not blocks:
            return
        if self._prompts >= WINDOW:
            self._before, self._prompts_before = self._now, self._prompts
            self._now, self._prompts = {}, 0
        self._prompts += 1
        counts = self._now
        for block in blocks[: shared + LOOK_AHEAD]:
            counts[block] = counts.get(block, 0) + 1
