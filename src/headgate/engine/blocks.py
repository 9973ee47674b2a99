"""The pool of KV blocks: who holds which, and how many are left.

A block holds keys and values of `block_size` consecutive tokens. Blocks carry a reference count so that sequences can
share a prefix; a block is free when its count is zero. Block 0 is never handed out: runners use it as padding.
Invariant: free + used = total, and a block's count is the number of tables that hold it.
"""

from collections import deque
from collections.abc import Sequence


class BlockPool:
    """`blocks` blocks of `block_size` tokens. All operations are O(blocks touched)."""

    def __init__(self, blocks: int, block_size: int) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs at least one block of one token, got {blocks} of {block_size}")
        self.total = blocks
        self.block_size = block_size
        self._free: deque[int] = deque(range(1, blocks + 1))
        self._references = [0] * (blocks + 1)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    def blocks_for(self, tokens: int) -> int:
        """How many blocks `tokens` tokens fill, the last one perhaps in part."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> list[int] | None:
        """`count` fresh blocks, or None (and nothing taken) if fewer are free."""
        if count > len(self._free):
            return None
        taken = [self._free.popleft() for _ in range(count)]
        for block in taken:
            self._references[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """One more table holds these blocks."""
        for block in blocks:
            self._expect_held(block)
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """A table lets go of its blocks, last first: the start of a prompt stays untouched longest."""
        for block in reversed(blocks):
            self._expect_held(block)
            self._references[block] -= 1
            if self._references[block] == 0:
                self._free.append(block)

    def references(self, block: int) -> int:
        return self._references[block]

    def _expect_held(self, block: int) -> None:
        if self._references[block] < 1:
            raise RuntimeError(f"KV block {block} is used after it was freed")
