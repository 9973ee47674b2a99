"""What one replica has to do at this moment, by our own count, and how fast it has been doing it."""

from math import exp2
from typing import Literal

from headgate.backends.balance.keys import fingerprint
from headgate.core.clock import Clock

OUTPUT_WEIGHT = 0.25
"""A token still to be written weighs less than one still to be read: it is written beside others, step by step, and
stands in nobody's way for long."""
ANSWER_WEIGHT, ANSWER_WEIGHT_MOST = 100.0, 1000.0
"""For the call itself a token written is as long as so many read, before that is measured; and at most."""
SLOW_START_S = 10.0
SLOW_START_FROM = 0.1
"""The part of its share that a replica begins with, which grows to the whole in so many seconds."""
FORGET_S = 30.0
"""In so many seconds without news half of what is known of a replica's speed is forgotten."""
DOUBT_S = 1.0
"""But in so many at first where it is thought slow: a pause of half a second makes every call slow that meets it, and
must not cost the replica its calls for minutes. Each time it is tried and found slow again this doubles, up to
`FORGET_S`."""
NEWS, NEWS_MOST = 0.1, 0.7
"""The weight of one measurement beside those before it; after a silence it weighs more."""
BASE_TOKENS = 256
"""What a call takes besides its tokens, as tokens, so that short prompts do not look slow."""
SLOWEST, FASTEST = 50.0, 0.2
ALIKE = 1.25
"""Replicas whose speed differs by less are taken for alike: calls differ by as much."""
_CONFIRMED = 0.9
"""A try that leaves more than this of its slowness has confirmed it."""
LOOK_S = 0.1
"""How long a handicap is taken for the same: it changes slowly, and every decision asks for it."""

Kind = Literal["reading", "writing", "answering"]


class Pace:
    """Seconds for tokens, the latest counting most. A quotient of sums: large calls say more than small ones."""

    __slots__ = ("_last", "_seconds", "_tokens", "sure")

    def __init__(self) -> None:
        self._last = 0.0
        self._seconds = 0.0
        self._tokens = 0.0
        self.sure = 0.0
        """0 before the first measurement, near 1 after many."""

    def add(self, seconds: float, tokens: float, now: float, forget_s: float = FORGET_S) -> None:
        new = min(NEWS_MOST, max(NEWS, 1.0 - exp2((self._last - now) / forget_s))) if self.sure else NEWS
        self._last = now
        self._seconds += new * (seconds - self._seconds)
        self._tokens += new * (tokens - self._tokens)
        self.sure += new * (1.0 - self.sure)

    @property
    def per_token(self) -> float:
        return self._seconds / self._tokens if self._tokens > 0 else 0.0


class Speed:
    """How fast prompts are read and answers written: of one replica, or of all."""

    __slots__ = ("answering", "reading", "writing")

    def __init__(self) -> None:
        self.reading = Pace()
        self.writing = Pace()
        self.answering = Pace()
        """Both, where the answer comes in one piece."""

    def slowness(self, of_all: "Speed") -> float:
        """Seconds per token by those of all; all that is measured counts alike, and less where that was seldom."""
        ratios = [
            1.0 + own.sure * (own.per_token / every.per_token - 1.0)
            for own, every in (
                (self.reading, of_all.reading),
                (self.writing, of_all.writing),
                (self.answering, of_all.answering),
            )
            if own.sure and every.per_token > 0
        ]
        return min(SLOWEST, max(FASTEST, sum(ratios) / len(ratios))) if ratios else 1.0

    @property
    def answer_weight(self) -> float:
        """Tokens that are read in the time in which a call waits for one that is written to it."""
        if self.reading.per_token <= 0 or self.writing.per_token <= 0:
            return ANSWER_WEIGHT
        return min(ANSWER_WEIGHT_MOST, max(1.0, self.writing.per_token / self.reading.per_token))


class Replica:
    """One replica's load and speed. Only `Load` changes the load."""

    __slots__ = (
        "_doubt_s", "_handicap", "_looked", "_since", "_slowness", "_speed", "_told", "apart", "at", "listed", "output",
        "prompt", "requests", "seed", "slot",
    )  # fmt: skip

    def __init__(self, at: str, slot: int, now: float) -> None:
        self.at = at
        self.slot = slot
        self.seed = fingerprint(at)
        self.requests = 0
        self.prompt = 0
        """Tokens sent and not yet read, without those that were in its cache."""
        self.output = 0
        """Tokens expected and not yet written."""
        self.listed = now
        """When it was last among those to choose from."""
        self.begin_slowly(now)

    @property
    def work(self) -> float:
        return self.prompt + OUTPUT_WEIGHT * self.output

    def begin_slowly(self, now: float) -> None:
        """It is new, or back: it gets little at first, and what was known of its speed says nothing any more."""
        self._since = now
        self._speed = Speed()
        self._slowness = 1.0
        self._doubt_s = DOUBT_S
        self._told = now
        self.apart = 1.0
        """Its slowness, where that is more than calls differ among themselves."""
        self._handicap = 1.0
        self._looked = now - LOOK_S

    def share(self, now: float) -> float:
        """The part of its full share that it may have by now, above 0 to 1."""
        age = now - self._since
        return 1.0 if age >= SLOW_START_S else max(SLOW_START_FROM, age / SLOW_START_S)

    def slowness(self, now: float) -> float:
        """Its seconds per token by those of all. What is known fades while it has nothing to do: it is tried again."""
        if self._slowness == 1.0 or self.requests:
            return self._slowness
        return 1.0 + (self._slowness - 1.0) * exp2((self._told - now) / self._doubt_s)

    def handicap(self, now: float) -> float:
        """What the work there counts, by the same work at a replica like all others: more where it is slow, or new.
        Asking for it brings `apart` up to date."""
        if now >= self._looked + LOOK_S:
            slowness = self.slowness(now)
            self.apart = slowness / ALIKE if slowness > ALIKE else min(1.0, slowness * ALIKE)
            self._looked, self._handicap = now, self.apart / self.share(now)
        return self._handicap

    def took(self, kind: Kind, seconds: float, tokens: float, of_all: Speed, now: float) -> None:
        """A call took so many seconds for so many tokens."""
        before, tried = self._slowness, now - self._told > 2.0 * self._doubt_s
        own: Pace = getattr(self._speed, kind)
        own.add(seconds, tokens, now, self._doubt_s)
        every: Pace = getattr(of_all, kind)
        every.add(seconds, tokens, now)
        self._told, self._slowness = now, self._speed.slowness(of_all)
        if self._slowness <= ALIKE:
            self._doubt_s = DOUBT_S
        elif tried and self._slowness > _CONFIRMED * before:
            self._doubt_s = min(FORGET_S, 2.0 * self._doubt_s)


class Load:
    """One call's work at one replica, from its beginning to `end`. Whoever began it ends it, whatever became of it."""

    __slots__ = ("_ahead", "_began", "_clock", "_ended", "_first", "_of_all", "_output", "_prompt", "_replica")

    def __init__(self, replica: Replica, prompt: int, output: int, clock: Clock, of_all: Speed) -> None:
        self._replica = replica
        self._prompt = prompt
        self._output = output
        self._clock = clock
        self._of_all = of_all
        self._began = clock.monotonic()
        self._first: float | None = None
        self._ended = False
        self._ahead = replica.prompt + prompt
        replica.requests += 1
        replica.prompt += prompt
        replica.output += output

    def first_piece(self) -> None:
        """The prompt is read: only the answer is left. Later calls of this, and after `end`, do nothing."""
        if self._first is not None or self._ended:
            return
        now = self._first = self._clock.monotonic()
        self._replica.prompt -= self._prompt
        self._replica.took("reading", now - self._began, self._ahead + BASE_TOKENS, self._of_all, now)

    def end(self, output_tokens: int | None = None) -> None:
        """It is over: the one place where a call's work is taken off. A second time does nothing.

        `output_tokens`: what was written, where the answer is whole: it tells how fast the replica is. Of an answer in
        one piece there is no first piece: then the time from its beginning counts.
        """
        if self._ended:
            return
        self._ended = True
        replica = self._replica
        replica.requests -= 1
        replica.output -= self._output
        if self._first is None:
            replica.prompt -= self._prompt
        if output_tokens is None or output_tokens < 1:
            return
        now = self._clock.monotonic()
        if self._first is None:
            tokens = output_tokens + (self._ahead + BASE_TOKENS) / ANSWER_WEIGHT
            replica.took("answering", now - self._began, tokens, self._of_all, now)
        else:
            replica.took("writing", now - self._first, output_tokens, self._of_all, now)
