"""The simple model: what each attempt did at its upstream, and what the ledger and the accounts must say of it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event
from headgate.core.ports import Answer, Health, ModelInfo, Progress
from headgate.core.target import Target
from headgate.core.usage import Usage

PRICES = {"m": (1_000, 2_000), "n": (3_000, 5_000)}
"""Nanodollars for a token in and out, by upstream model."""
End = Literal["usage", "silent", "error", "cut", "hang"]
State = Literal["open", "ended", "failed", "left"]
OUTCOMES: dict[State, str] = {"ended": "ok", "failed": "failed", "left": "cancelled", "open": "lost"}


@dataclass(frozen=True)
class Act:
    """What an upstream does with an attempt."""

    opens: bool
    pieces: int
    end: End
    usage: Usage
    exact: bool
    """It counts tokens itself."""


class Try:
    """One attempt, as its upstream sees it. It stands still until it is let go on."""

    def __init__(self, call: Call, backend: str, act: Act, process: int, started: float) -> None:
        self.call, self.backend, self.act, self.process, self.started = call, backend, act, process, started
        self.state: State = "open"
        self.pieces = 0
        self.permits = 0
        self.free = False
        self.late = False
        self.at_crash: State | None = None
        """What it was when its process died, if that was before its caller's call had ended."""
        self._waker: asyncio.Future[None] | None = None

    def go(self, permits: int = 1, *, free: bool = False, late: bool = False) -> None:
        self.permits += permits
        self.free = self.free or free
        self.late = self.late or late
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(None)

    async def turn(self) -> None:
        while not (self.permits or self.free or self.late):
            self._waker = asyncio.get_running_loop().create_future()
            await self._waker
        self.permits -= 1
        if self.late:
            self.state = "failed"
            raise UpstreamTimeout("The deadline has come.")

    async def hang(self) -> None:
        self.permits, self.free = 0, False
        while True:
            await self.turn()
            self.permits, self.free = 0, False


class Stage:
    """A `Backend` that does what its acts say. All processes have the same, as upstreams outlive them."""

    kind = "stage"

    def __init__(self, name: str, clock: Clock, tries: dict[tuple[str, int], Try], acts: list[Act]) -> None:
        self.name = name
        self._clock = clock
        self.process = 0
        self._tries = tries
        self._acts = acts
        """Of the next attempts; the last is for all that follow."""

    async def open(self, call: Call, target: Target) -> Answer:
        act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
        attempt = Try(call, self.name, act, self.process, self._clock.now())
        number = 1
        while (call.id, number) in self._tries:
            number += 1
        self._tries[call.id, number] = attempt
        try:
            await attempt.turn()
            if not act.opens:
                attempt.state = "failed"
                raise Upstream("It refuses.")
            if call.stream:
                progress = Progress(exact=act.exact)
                stream = self._tell(attempt, progress)
                return Answer(stream=stream, progress=progress, close=stream.aclose)
            await self._whole(attempt)
        except (asyncio.CancelledError, GeneratorExit):
            attempt.state = "left"
            raise
        attempt.state = "ended"
        return Answer(body=b"{}", usage=act.usage if act.end == "usage" else None)

    async def _whole(self, attempt: Try) -> None:
        for _ in range(attempt.act.pieces):
            await attempt.turn()
        await self._end(attempt)

    async def _tell(self, attempt: Try, progress: Progress) -> AsyncGenerator[Event | bytes]:
        try:
            for _ in range(attempt.act.pieces):
                await attempt.turn()
                progress.output_tokens += 1
                progress.input_tokens = attempt.act.usage.input
                attempt.pieces += 1
                yield b"data: {}\n\n"
            await self._end(attempt)
            if attempt.act.end == "usage":
                yield attempt.act.usage
            attempt.state = "ended"
        except (asyncio.CancelledError, GeneratorExit):
            attempt.state = "left"
            raise
        finally:
            if attempt.state == "open":
                attempt.state = "left"

    async def _end(self, attempt: Try) -> None:
        if attempt.act.end == "hang":
            await attempt.hang()
        if attempt.act.end in {"error", "cut"}:
            attempt.state = "failed"
            raise Upstream("It broke.") if attempt.act.end == "error" else Truncated("It was cut.")

    async def models(self) -> Sequence[ModelInfo]:
        return []

    async def probe(self) -> Health:
        return Health(True, "told")

    async def aclose(self) -> None:
        return


@dataclass
class Truth:
    """All attempts of a history, of all processes: each call's by number."""

    tries: dict[tuple[str, int], Try] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)

    def check(self, rows: Iterable[Any]) -> None:
        """Every attempt has one entry that says what became of it, and there is no other."""
        found = {}
        for row in rows:
            key = (row.call_id, row.attempt)
            assert key not in found, f"two entries of one attempt: {key}"
            found[key] = row
        assert set(found) == set(self.tries), f"without an entry: {sorted(set(self.tries) - set(found))[:3]}"
        self.outcomes = Counter(row.outcome for row in found.values())
        for key, attempt in self.tries.items():
            self._check(attempt, found[key])

    def _check(self, attempt: Try, row: Any) -> None:
        assert row.backend == attempt.backend
        if attempt.at_crash is None:
            assert row.outcome == OUTCOMES[attempt.state] != "lost", (row.id, row.outcome, attempt.state)
        else:  # it had ended and nobody had written that down yet, or somebody had
            assert row.outcome in {OUTCOMES[attempt.at_crash], "lost"}, (row.id, row.outcome, attempt.at_crash)
        into, out = PRICES[row.upstream_model]
        assert row.cost_nanos == row.input_tokens * into + row.output_tokens * out
        assert row.input_tokens >= 0 <= row.output_tokens
        if row.outcome == "ok" and attempt.act.end == "usage":
            assert (row.input_tokens, row.output_tokens) == (attempt.act.usage.input, attempt.act.usage.output)
            assert not row.estimated
        elif row.outcome == "lost":
            assert row.estimated
            assert row.output_tokens == 0
        elif attempt.at_crash is None:
            assert row.output_tokens == attempt.pieces


def sums(rows: Sequence[Any], key: str) -> int:
    """What an account's key stands for, by the ledger's entries: nanodollars, or tokens."""
    level, owner, name, value, period = key.split(":")
    unit, per, each, model = name.split("/")
    wanted = {"project": "tenant", "user": "user_id", "key": "key_id"}
    total = 0
    for row in rows:
        if level != "organization" and getattr(row, wanted[level]) != owner:
            continue
        if each in wanted and (getattr(row, wanted[each]) or "") != value:
            continue
        if model not in {"*", row.model}:
            continue
        if per == "day" and datetime.fromtimestamp(row.started_at, UTC).date().isoformat() != period:
            continue
        if per == "month" and not datetime.fromtimestamp(row.started_at, UTC).date().isoformat().startswith(period):
            continue
        total += row.cost_nanos if unit == "usd" else row.input_tokens + row.output_tokens
    return total
