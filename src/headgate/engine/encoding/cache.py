"""Vectors that were computed before, by the hash of what they were computed from."""

from array import array
from collections import OrderedDict
from hashlib import blake2b

from headgate.engine.encoder_wire import Text

ENTRY_BYTES = 256
"""What an entry takes besides its numbers: keys, objects, places in the table."""


class VectorCache:
    """The least recently used leave first. One model's: what else a vector depends on never changes in a process."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._vectors: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def enabled(self) -> bool:
        return self._limit > 0

    def get(self, key: bytes) -> bytes | None:
        found = self._vectors.get(key)
        if found is not None:
            self._vectors.move_to_end(key)
        return found

    def put(self, key: bytes, vector: bytes) -> None:
        size = len(vector) + ENTRY_BYTES
        if size > self._limit:
            return
        if key not in self._vectors:
            self._bytes += size
        self._vectors[key] = vector
        while self._bytes > self._limit:
            _, old = self._vectors.popitem(last=False)
            self._bytes -= len(old) + ENTRY_BYTES


def key_of(text: Text, salt: str) -> bytes:
    """The same for the same tokens of the same salt: one tenant cannot tell by the time what another has asked."""
    digest = blake2b(f"{salt}\0{text.second}\0".encode(), digest_size=16)
    digest.update(array("i", text.tokens))
    return digest.digest()
