"""The block tables of sequences: shared where tokens are the same, copied where they part, grown as they are computed.

What was computed is found again by the digest of a block: BLAKE2b-128 over the digest before it and its own tokens,
the first one over the sequence's salt. A digest thus stands for all tokens from the first to the block's last, and for
who may share them. (Block hashes as in vLLM's automatic prefix caching.)

Invariant: outside of `Scheduler.plan`, the block of the first token to compute, where the table has it already, and
all behind it are held by that one table and are not indexed.
"""

import hashlib
from array import array

from headgate.engine.scheduling.blocks import BlockPool
from headgate.engine.scheduling.sequence import Sequence

DIGEST_BYTES = 16


class Tables:
    """Changes the tables of sequences, and the pool with them."""

    def __init__(self, pool: BlockPool, *, prefix_cache: bool) -> None:
        self.pool = pool
        self.copies: dict[int, tuple[int, int]] = {}
        """By sequence: the block to copy before the next step, and where to."""
        self._prefix_cache = prefix_cache
        self._size = pool.block_size

    def reuse(self, sequence: Sequence) -> None:
        """Gives a sequence without a table the longest run of cached blocks that its known tokens begin with.

        Its last known token stays to be computed, for the logits after it are needed.
        """
        blocks: list[int] = []
        if self._prefix_cache:
            for index in range(len(sequence.tokens) // self._size):
                block = self.pool.find(self._digest(sequence, index))
                if block is None:
                    break
                blocks.append(block)
        self.pool.share(blocks)
        self._start(sequence, tuple(blocks), min(len(blocks) * self._size, len(sequence.tokens) - 1))

    def fork(self, child: Sequence, parent: Sequence) -> None:
        """Gives a child the parent's blocks of their common prompt: only its last token is computed again."""
        blocks = parent.table[: self.pool.blocks_for(child.prompt_length)]
        self.pool.share(blocks)
        self._start(child, blocks, child.prompt_length - 1)

    def _start(self, sequence: Sequence, table: tuple[int, ...], computed: int) -> None:
        sequence.table, sequence.computed, sequence.indexed = table, computed, computed // self._size

    def missing(self, sequence: Sequence) -> int:
        """How many blocks it would take to compute all known tokens: zero or more."""
        return max(self.pool.blocks_for(len(sequence.tokens)) - len(sequence.table), 0) + self._shared(sequence)

    def extend(self, sequence: Sequence, end: int) -> bool:
        """Makes room to write the tokens from the first uncomputed one up to `end`; False, and no change, where blocks
        are lacking.

        Of what is in the table already, only the block of the first of these tokens can be another's too: then the
        sequence gets a copy.
        """
        shared = self._shared(sequence)
        taken = self.pool.take(max(self.pool.blocks_for(end) - len(sequence.table), 0) + shared)
        if taken is None:
            return False
        at, table = sequence.computed // self._size, sequence.table
        if shared:
            self.copies[sequence.key] = (table[at], taken[0])
            self.pool.release(table[at : at + 1])
            sequence.table = table[:at] + taken
        else:
            if at < len(table):
                self.pool.forget(table[at])
            sequence.table = table + taken
        return True

    def _shared(self, sequence: Sequence) -> bool:
        """The next token's place is in a block that another table holds too."""
        at = sequence.computed // self._size
        return at < len(sequence.table) and self.pool.references(sequence.table[at]) > 1

    def keep(self, sequence: Sequence) -> None:
        """Indexes the blocks that have become full."""
        full = sequence.computed // self._size
        if self._prefix_cache:
            for index in range(sequence.indexed, full):
                self.pool.index(sequence.table[index], self._digest(sequence, index))
        sequence.indexed = full

    def trim(self, sequence: Sequence) -> None:
        """Gives back what only rejected tokens of a draft were written to."""
        held = self.pool.blocks_for(len(sequence.tokens))
        self.pool.release(sequence.table[held:])
        sequence.table = sequence.table[:held]

    def drop(self, sequence: Sequence) -> None:
        """The sequence has nothing computed any more; what is indexed of it may be found again."""
        self.pool.release(sequence.table)
        self._start(sequence, (), 0)

    def _digest(self, sequence: Sequence, index: int) -> bytes:
        """Of the block at `index` of the sequence's tokens; each is computed once."""
        digests, size = sequence.digests, self._size
        while len(digests) <= index:
            before = digests[-1] if digests else _hashed(sequence.share.salt.encode())
            at = len(digests) * size
            digests.append(_hashed(before + array("I", sequence.tokens[at : at + size]).tobytes()))
        return digests[index]


def _hashed(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
