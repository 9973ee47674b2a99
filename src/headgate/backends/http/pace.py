"""Whether a stream keeps up a rate of tokens, over a sliding window of the time that was spent waiting for it."""

from collections import deque

WINDOW_S = 10.0
"""Seconds of waiting over which a stream's rate is taken."""
STEPS = 10
"""How often in a window it is looked at; marks that are kept are twice as many at most."""


class Pace:
    """Its owner adds to `tokens` as they come, and asks `slow` about every `step_s`: what came costs one addition.

    Only waiting counts: a consumer that takes its time makes no stream slow.
    """

    __slots__ = ("_marks", "per_s", "step_s", "tokens", "window_s")

    def __init__(self, tokens_per_s: float, window_s: float = WINDOW_S) -> None:
        self.per_s = tokens_per_s
        self.window_s = window_s
        self.step_s = window_s / STEPS
        self.tokens = 0.0
        self._marks: deque[tuple[float, float]] = deque([(0.0, 0.0)])

    def slow(self, waited_s: float) -> bool:
        """`waited_s`: all the time spent waiting since the first token. False until one window is over."""
        marks = self._marks
        while len(marks) > 1 and marks[1][0] <= waited_s - self.window_s:
            marks.popleft()
        since, tokens = marks[0]
        span = waited_s - since
        if span >= self.window_s and self.tokens - tokens < self.per_s * span:
            return True
        if waited_s - marks[-1][0] >= self.step_s / 2:
            marks.append((waited_s, self.tokens))
        return False
