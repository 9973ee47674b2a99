"""What one rendering of a chat template may do, in steps, characters and seconds."""

from typing import Any

from jinja2.runtime import Context

from headgate.core.clock import Clock

MAX_STEPS = 1_500_000
"""A conversation of twenty thousand messages takes about half of them."""
MAX_CHARS = 16 * 2**20
"""Of one text. All texts that a rendering makes may have sixteen times as many."""
MAX_SECONDS = 5.0
_LOOKED_EVERY = 512
BUDGET = " budget"
"""Where a context keeps its budget: under no name that a template could spell."""


class Overrun(Exception):
    """The template did more than any chat template has to."""


class Budget:
    """What one rendering may still do. Raises `Overrun`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._steps = MAX_STEPS
        self._chars = 16 * MAX_CHARS
        self._look = MAX_STEPS - _LOOKED_EVERY
        self._end = clock.monotonic() + MAX_SECONDS

    def step(self, count: int) -> None:
        self._steps -= count
        if self._steps < self._look:
            if self._steps < 0:
                raise Overrun(f"takes over {MAX_STEPS} steps")
            if self._clock.monotonic() > self._end:
                raise Overrun(f"takes over {MAX_SECONDS:g} seconds")
            self._look = self._steps - _LOOKED_EVERY

    def make(self, chars: int) -> None:
        """Before a text or list of this size is made."""
        self._chars -= chars
        self._steps -= 1 + (chars >> 8)
        if chars > MAX_CHARS or self._chars < 0:
            raise Overrun(f"makes a text of over {MAX_CHARS} characters")
        if self._steps < self._look:
            self.step(0)

    def weigh(self, value: Any) -> int:
        """How large a value is, written out: every place where it holds another counts."""
        chars, stack = 0, [value]
        while stack:
            one = stack.pop()
            size = len(one) if isinstance(one, str) else 1
            chars += size
            if chars > MAX_CHARS:
                raise Overrun(f"makes a value of over {MAX_CHARS} characters")
            self.step(1 + (size >> 8))
            if isinstance(one, dict):
                stack += one.keys()
                stack += one.values()
            elif isinstance(one, list | tuple):
                stack += one
        return chars


def budget_of(context: Context) -> Budget:
    found: Budget = context.parent[BUDGET]
    return found


def with_budget(values: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """The variables of one rendering."""
    return {**values, BUDGET: budget}
