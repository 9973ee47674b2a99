"""A model's reasoning apart from its answer: `<think>...</think>` before it, as the text comes.

The prompt may have opened the reasoning already. Space right inside and right behind the markers is the template's, not
the model's, and belongs to neither part. A marker later in the answer is text.
"""

from headgate.backends.dialect import Thinking

_SPACE = " \t\r\n"
_HELD = 4096
"""How much space is held while it is undecided where it belongs."""


class Thoughts:
    """Cuts one answer in two. Its outcome does not depend on how the text is cut."""

    def __init__(self, thinking: Thinking, *, opened: bool) -> None:
        """`opened`: the prompt ends inside of the reasoning."""
        self._thinking = thinking
        self._buffer = ""
        self._inside = self._behind = self._shown = False
        self.begun = opened
        """There is reasoning in this answer."""
        self.done = False
        """The answer itself has begun, or the reasoning turned out not to come: all that follows is answer."""

    def feed(self, text: str) -> tuple[str, str]:
        """The reasoning and the answer that are certain now."""
        if self.done:
            return "", text
        self._buffer += text
        if not self._inside and not self._behind and not self._enter():
            return "", self._take(len(self._buffer)) if self.done else ""
        thought = self._thought() if self._inside else ""
        return thought, self._answer() if self._behind else ""

    def flush(self) -> tuple[str, str]:
        """What was held back, where the text ends."""
        if self._inside:
            return self._take(len(self._buffer)).rstrip(_SPACE), ""
        if self.begun:
            self._buffer = self._buffer.lstrip(_SPACE)
        rest = self._take(len(self._buffer))
        return (rest, "") if self.begun and not self._behind else ("", rest)

    def _enter(self) -> bool:
        """Before the reasoning: the marker, unless the prompt has it; some models write it again even so."""
        rest = self._buffer.lstrip(_SPACE)
        begin = self._thinking.begin
        if rest.startswith(begin):
            self._buffer = rest[len(begin) :]
            self._inside = self.begun = True
        elif begin.startswith(rest) and len(self._buffer) < _HELD:
            return False
        elif self.begun:
            self._inside = True
        else:
            self.done = True
            return False
        return True

    def _thought(self) -> str:
        if not self._shown:
            self._buffer = self._buffer.lstrip(_SPACE)
        before, found, after = self._buffer.partition(self._thinking.end)
        if found:
            self._buffer = after
            self._inside, self._behind = False, True
            return before.rstrip(_SPACE)
        end = self._thinking.end
        kept = next((size for size in range(len(end) - 1, 0, -1) if before.endswith(end[:size])), 0)
        sure = before[: len(before) - kept].rstrip(_SPACE)
        if len(before) - len(sure) > _HELD:
            sure = before[: len(before) - kept]
        self._shown = self._shown or bool(sure)
        return self._take(len(sure))

    def _answer(self) -> str:
        self._buffer = self._buffer.lstrip(_SPACE)
        self.done = bool(self._buffer)
        return self._take(len(self._buffer))

    def _take(self, count: int) -> str:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken
