"""How many tokens of prompts a step may take on, so that running streams do not stutter: a budget in time.

A step with running streams is taken to last `base + each * (tokens of prompts)`. Both are learned from the steps
themselves by least squares in which older steps fade, so that they follow the load, the contexts and the machine.
"""

FADE = 0.9
"""What a step counts for after the next one."""
STRETCH = 1.8
"""A step may last so many times as long as one without prompts, or `step_s` where that is longer."""
SMALLEST_CHUNK = 4
"""So many tokens of prompts are computed beside streams in any case: waiting prompts always get on."""
APART = 0.25
"""Steps tell what a token costs where the variance of their tokens is this part of the mean squared, or more: what is
nearly alike differs by chance."""
SLOWER = 0.7
"""A cost never falls to less than this part of itself at once: one slow step of streams alone must not make prompts
look free."""


class StepTimes:
    """Learns how long steps last. Nothing it computes depends on anything but what it was told."""

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._count = self._tokens = self._seconds = self._squares = self._products = 0.0
        self.base_s = 0.0
        """A step of running streams alone."""
        self.each_s = 0.0
        """What each token of a prompt adds."""

    def learn(self, tokens: int, seconds: float) -> None:
        """A step with `tokens` tokens of prompts took `seconds`. O(1)."""
        self._count = self._count * FADE + 1
        self._tokens = self._tokens * FADE + tokens
        self._seconds = self._seconds * FADE + seconds
        self._squares = self._squares * FADE + tokens * tokens
        self._products = self._products * FADE + tokens * seconds
        spread = self._count * self._squares - self._tokens * self._tokens
        if spread > max(APART * self._tokens * self._tokens, self._count * self._count):
            slope = (self._count * self._products - self._tokens * self._seconds) / spread
            self.each_s = max(slope, self.each_s * SLOWER)
        elif self.each_s == 0.0 and self._tokens:
            self.each_s = self._seconds / self._tokens
        if self.each_s * self._tokens > self._seconds:  # no step takes less than nothing without its prompts
            self.each_s = self._seconds / self._tokens
        self.base_s = max(self._seconds - self.each_s * self._tokens, 0.0) / self._count

    def chunk(self, most: int) -> int:
        """How many tokens of prompts fit beside running streams: at most `most`."""
        room_s = max(self._step_s, STRETCH * self.base_s) - self.base_s
        if self.each_s * most <= room_s:
            return most
        return min(max(int(room_s / self.each_s), SMALLEST_CHUNK), most)
