"""The pool of KV blocks: who holds which, which are kept for prompts that begin alike, and how many are left.

A block holds keys and values of `block_size` consecutive tokens. It is

- *used*, while at least one sequence's table holds it (its references count the tables);
- *cached*, when no table holds it, but it is indexed under the digest of all tokens up to its last, so that it can be
  shared again; the one let go of longest ago is given up first;
- *free* otherwise.

Block 0 is never handed out: runners use it as padding. Invariants: free + cached + used = total; an indexed block is
full and computed, and never written to while it is indexed; one digest names one block.
"""

from collections import OrderedDict
from collections.abc import Sequence


class BlockPool:
    """`blocks` blocks of `block_size` tokens. All operations are O(blocks touched)."""

    def __init__(self, blocks: int, block_size: int) -> None:
        if blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs at least one block of one token, got {blocks} of {block_size}")
        self.total = blocks
        self.block_size = block_size
        self._free = list(range(blocks, 0, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # let go of longest ago first
        self._index: dict[bytes, int] = {}
        self._digests: list[bytes | None] = [None] * (blocks + 1)
        self._references = [0] * (blocks + 1)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def cached(self) -> int:
        return len(self._cached)

    @property
    def available(self) -> int:
        """Blocks that `take` can give."""
        return len(self._free) + len(self._cached)

    @property
    def used(self) -> int:
        return self.total - self.available

    def blocks_for(self, tokens: int) -> int:
        """How many blocks `tokens` tokens fill, the last one perhaps in part."""
        return -(-tokens // self.block_size)

    def take(self, count: int) -> tuple[int, ...] | None:
        """`count` blocks to write to, or None (and nothing taken) if fewer are available."""
        if count > self.available:
            return None
        taken = tuple(self._free.pop() if self._free else self._evict() for _ in range(count))
        for block in taken:
            self._references[block] = 1
        return taken

    def share(self, blocks: Sequence[int]) -> None:
        """One more table holds these blocks, which are used or cached."""
        for block in blocks:
            if self._references[block] == 0:
                if block not in self._cached:
                    raise _freed(block)
                del self._cached[block]
            self._references[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """A table lets go of its blocks, last first: the start of a prompt stays cached longest."""
        for block in reversed(blocks):
            if self._references[block] < 1:
                raise _freed(block)
            self._references[block] -= 1
            if self._references[block] == 0:
                if self._digests[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def references(self, block: int) -> int:
        return self._references[block]

    def find(self, digest: bytes) -> int | None:
        """The block that holds what the digest names."""
        return self._index.get(digest)

    def index(self, block: int, digest: bytes) -> None:
        """Makes a used block that is full and computed known under a digest; the first block of a digest stays it."""
        if self._references[block] < 1:
            raise _freed(block)
        if self._digests[block] is None and self._index.setdefault(digest, block) == block:
            self._digests[block] = digest

    def forget(self, block: int) -> None:
        """A used block will be written to: it is no longer found."""
        if self._references[block] < 1:
            raise _freed(block)
        digest = self._digests[block]
        if digest is not None:
            self._digests[block] = None
            del self._index[digest]

    def digest(self, block: int) -> bytes | None:
        """Under what the block is indexed."""
        return self._digests[block]

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        digest = self._digests[block]
        if digest is not None:
            del self._index[digest]
        self._digests[block] = None
        return block


def _freed(block: int) -> RuntimeError:
    return RuntimeError(f"KV block {block} is used after it was freed")
