"""How long an exchange waits: one timer for the phase and the whole, armed lazily so that a chunk costs no timer."""

import asyncio
from collections.abc import Callable
from typing import Literal

from headgate.backends.http.pace import Pace
from headgate.core.errors import UpstreamTimeout

Phase = Literal["connect", "first_token", "between_tokens", "total"]

_DOING: dict[Phase, str] = {
    "connect": "accept a connection",
    "first_token": "begin its answer",
    "between_tokens": "continue its answer",
    "total": "finish its answer",
}
_CODES: dict[Phase, str] = {
    "connect": "upstream_connect_timeout",
    "first_token": "upstream_first_token_timeout",
    "between_tokens": "upstream_stalled",
    "total": "upstream_timeout",
}


def timed_out(phase: Phase, seconds: float) -> UpstreamTimeout:
    return UpstreamTimeout(
        f"the model server did not {_DOING[phase]} within {seconds:.3g} s (phase: {phase})", code=_CODES[phase]
    )


def too_slow(pace: Pace) -> UpstreamTimeout:
    return UpstreamTimeout(
        f"the model server gave fewer than {pace.per_s:.3g} tokens a second over {pace.window_s:.3g} s",
        code="upstream_too_slow",
    )


class Patience:
    """Counts the time spent *waiting* since the last progress; a busy consumer's time is not the upstream's.

    `expired` is called once, with the error to raise: when the wait outlasts the phase, or the total is over.
    """

    __slots__ = (
        "_armed_at",
        "_between_s",
        "_expired",
        "_handle",
        "_limit",
        "_loop",
        "_phase",
        "_since",
        "_spent",
        "_total",
        "_waited",
        "pace",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        phases: tuple[float, float],
        total: tuple[float, float],
        expired: Callable[[UpstreamTimeout], None],
    ) -> None:
        """`phases`: seconds to the first token and between tokens. `total`: loop time of the end, and its seconds."""
        self._loop = loop
        self._limit, self._between_s = phases
        self._total = total
        self._expired = expired
        self._phase: Phase = "first_token"
        self._spent = 0.0
        self._waited = 0.0  # since the first token, up to the last one
        self.pace: Pace | None = None
        """What a stream must keep up after its first token, if anything."""
        self._since: float | None = None
        self._armed_at = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def waiting(self) -> None:
        now = self._since = self._loop.time()
        due = min(now + self._limit - self._spent, self._total[0])
        if self.pace is not None and self._phase == "between_tokens":
            due = min(due, now + self.pace.step_s)
        if self._handle is None or due < self._armed_at:
            self._arm(due)

    def woke(self) -> None:
        if self._since is not None:
            self._spent += self._loop.time() - self._since
            self._since = None

    def progress(self) -> None:
        if self._since is not None:
            now = self._loop.time()
            self._spent += now - self._since
            self._since = now
        if self._phase == "between_tokens":
            self._waited += self._spent
        self._spent = 0.0
        self._phase = "between_tokens"
        self._limit = self._between_s

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._total = (float("inf"), 0.0)

    def _arm(self, due: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_at = due
        self._handle = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._handle = None
        now = self._loop.time()
        end, seconds = self._total
        if now >= end:
            self._expired(timed_out("total", seconds))
            return
        spent = self._spent + (0.0 if self._since is None else now - self._since)
        left = self._limit - spent
        pace = self.pace if self._phase == "between_tokens" else None
        if left <= 0 and self._since is not None:
            self._expired(timed_out(self._phase, self._limit))
        elif pace is not None and self._since is not None and pace.slow(self._waited + spent):
            self._expired(too_slow(pace))
        else:
            soon = max(left, 0.01) if pace is None else min(max(left, 0.01), pace.step_s)
            self._arm(min(now + soon, end))
