"""The worker's watch over its sequences: how long each waited, read and wrote, told the gateway in distributions.

The cost is a bisection per sequence and step, in the worker's process; what the gateway gets is a few hundred numbers
at most `1 / EVERY_S` times a second, however many tokens are drawn.
"""

from headgate.core.clock import Clock
from headgate.engine.metrics import BOUNDS, Timings
from headgate.engine.plan import StepPlan

EVERY_S = 0.5
"""Between two reports while there is work; one more tells of the last step before a rest."""


class _Seen:
    """Times of one sequence, monotonic."""

    __slots__ = ("first", "last", "prompt", "queued", "started", "tokens")

    def __init__(self, prompt: int, now: float) -> None:
        self.prompt = prompt
        self.queued = self.started = self.first = self.last = now
        self.tokens = 0


class Observer:
    """Told of every sequence's arrival, of every plan, of new tokens and of ends."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timings = Timings.empty()
        self._seen: dict[int, _Seen] = {}
        self._waiting: set[int] = set()
        self._changed = False
        self._told = clock.monotonic()

    def submitted(self, key: int, prompt_tokens: int) -> None:
        self._seen[key] = _Seen(prompt_tokens, self._clock.monotonic())
        self._waiting.add(key)

    def planned(self, plan: StepPlan) -> None:
        """Before the plan runs."""
        self._observe("iteration_tokens_total", plan.tokens)
        if self._waiting:
            now = self._clock.monotonic()
            for part in plan.slices:
                if part.key in self._waiting:
                    self._waiting.discard(part.key)
                    self._seen[part.key].started = now

    def drew(self, key: int, tokens: int, now: float, finish: str | None) -> None:
        """After a step that ended at `now`: a sequence has so many tokens more. `finish` as in `wire.Delta`."""
        seen = self._seen.get(key)
        if seen is None:
            return
        if seen.tokens:
            self._observe("inter_token_latency_seconds", now - seen.last)
        else:
            seen.first = now
            self._observe("time_to_first_token_seconds", now - seen.queued)
        seen.last = now
        seen.tokens += tokens
        if finish is not None:
            self._end(key, seen, finish if finish in {"stop", "length"} else "error")

    def cancelled(self, key: int) -> None:
        """Nobody wants the rest of it."""
        seen = self._seen.get(key)
        if seen is not None:
            self._end(key, seen, "abort")

    def report(self, *, resting: bool) -> Timings | None:
        """What is to be told now, if anything; `resting`: no step follows this one soon."""
        now = self._clock.monotonic()
        if not self._changed or (not resting and now - self._told < EVERY_S):
            return None
        self._changed, self._told = False, now
        return self._timings

    def _end(self, key: int, seen: _Seen, reason: str) -> None:
        del self._seen[key]
        self._waiting.discard(key)
        self._timings.finished[reason] += 1
        self._changed = True
        if reason == "abort":
            return  # how far it came says how long its caller stayed, not how fast we are
        self._observe("e2e_request_latency_seconds", seen.last - seen.queued)
        self._observe("request_queue_time_seconds", seen.started - seen.queued)
        self._observe("request_prefill_time_seconds", seen.first - seen.started)
        self._observe("request_decode_time_seconds", seen.last - seen.first)
        self._observe("request_prompt_tokens", seen.prompt)
        self._observe("request_generation_tokens", seen.tokens)

    def _observe(self, name: str, value: float) -> None:
        self._timings.distributions[name].observe(value, BOUNDS[name])
        self._changed = True
