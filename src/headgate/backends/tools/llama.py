"""`{"name": "f", "parameters": {...}}` as the whole answer, several parted by `;`, or behind `<|python_tag|>`.

Without the marker, only an answer that begins with a call is one: an object later in the text is text.
"""

from collections.abc import Collection

from headgate.backends.tools.reader import SPACE, Piece, Reader


class Llama(Reader):
    trigger = "<|python_tag|>"

    def __init__(self, names: Collection[str], *, parallel: bool = True) -> None:
        super().__init__(names, parallel=parallel)
        self._state = self._after

    def _undecided(self) -> bool:
        return self._state == self._after and not self.calls

    def _begun(self, pieces: list[Piece]) -> bool:
        self._state = self._head
        return True

    def _after(self, pieces: list[Piece]) -> bool:
        """At the beginning of the answer, and after each call."""
        front = self._front
        rest = front.lstrip(SPACE + (";," if self.calls else ""))
        if not rest and not self._full:
            return False
        if rest.startswith("{"):
            self._move(len(front) - len(rest))
            return self._to(self._head)
        return self._to(self._space if self.calls else self._text)
