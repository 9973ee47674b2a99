"""`<tool_call>{"name": "f", "arguments": {...}}</tool_call>`, each call between markers of its own."""

from headgate.backends.tools.reader import SPACE, Piece, Reader

CLOSE = "</tool_call>"


class Hermes(Reader):
    trigger = "<tool_call>"

    def _begun(self, pieces: list[Piece]) -> bool:
        self._state = self._head
        return True

    def _after(self, pieces: list[Piece]) -> bool:
        """Drops the marker, and brackets too many before it; what is no part of a call ends it too."""
        front = self._front
        rest = front.lstrip(SPACE + "}")
        if len(rest) < len(CLOSE) and CLOSE.startswith(rest) and not self._full:
            return False
        if rest.startswith(CLOSE):
            self._buffer = self._buffer[len(front) - len(rest) + len(CLOSE) :]
        self._state = self._space
        return True
