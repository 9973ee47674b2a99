"""A model server that stands still under load: a real process, stopped and let go on by signals."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from statistics import quantiles

import pytest

from headgate.backends.health import Condition, HealthMonitor
from headgate.backends.openai import OpenAIBackend
from headgate.backends.replicas import Replicas
from headgate.core.errors import HeadgateError
from headgate.core.tasks import Tasks
from tests.backends.calls import CLOCK, backend, call, target, until
from tests.upstream.process import ROOT

CALLERS = 4
STREAM = "ok:ms=20"


@contextmanager
def process() -> Iterator[tuple[str, int]]:
    """A fake upstream: its base URL and its process id."""
    command = [sys.executable, "-m", "tests.upstream.server", "--port", "0", "--models", "ok", "--headers", "{}"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            yield f"http://127.0.0.1:{json.loads(running.stdout.readline())['port']}/v1", running.pid
        finally:
            running.kill()


class Load:
    """Callers of one replica, its registry and its probes, wired as the request path wires them."""

    def __init__(self, up: OpenAIBackend) -> None:
        self.up = up
        self.told: list[tuple[str, str]] = []
        self.replicas = Replicas(CLOCK, random.Random(5), lambda at, state, why: self.told.append((state, why)))
        self.replicas.use({"up": "pool"})
        self.health = HealthMonitor(CLOCK, changed=self._probed)
        self.tasks = Tasks()
        self.answered = 0

    async def __aenter__(self) -> "Load":
        self.health.watch([self.up])
        self.tasks.spawn(self.replicas.watch(self.health.suspect))
        for _ in range(CALLERS):
            self.tasks.spawn(self._calls())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.tasks.aclose()
        await self.health.aclose()
        await self.up.aclose()
        assert self.tasks.failures == []
        pulse = self.replicas.pulse("up")
        assert (pulse.in_flight, pulse.waiting) == (0, 0)

    def _probed(self, name: str, now: Condition) -> None:
        self.replicas.failing(name, now.detail if now.state == "failing" else None)

    async def _calls(self) -> None:
        while True:
            one = self.replicas.enter("up")
            if one is None:
                await asyncio.sleep(0.01)
                continue
            try:
                answer = await self.up.open(call(STREAM, stream=True), target(STREAM))
                one.heard()
                try:
                    assert answer.stream is not None
                    async for _ in answer.stream:
                        one.began()
                        one.pulse.beats += 1
                finally:
                    await answer.aclose()
                one.ended(None)
                self.answered += 1
            except HeadgateError as error:
                one.ended(error)
            finally:
                one.dropped()

    async def lively(self) -> None:
        known = self.answered
        await until(lambda: self.answered > known + 2 * CALLERS, 20.0)


async def stop_and_go(load: Load, pid: int) -> float:
    """Seconds from the stop until it is out; waits until it is back."""
    await load.lively()
    os.kill(pid, signal.SIGSTOP)
    try:
        begin = CLOCK.monotonic()
        await until(lambda: not load.replicas.usable("up"), 10.0)
        seconds = CLOCK.monotonic() - begin
        assert load.replicas.why_not("up") == "failing: no answer within 0.5 s"
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(lambda: load.replicas.usable("up"), 10.0)
    await load.lively()
    return seconds


async def stops(count: int) -> tuple[list[float], list[tuple[str, str]]]:
    async with AsyncExitStack() as stack:
        base_url, pid = stack.enter_context(process())
        load = await stack.enter_async_context(Load(backend(base_url)))
        return [await stop_and_go(load, pid) for _ in range(count)], load.told


def test_one_that_is_stopped_under_load_is_out_and_back_when_it_goes_on() -> None:
    _, told = asyncio.run(stops(1))
    assert [state for state, _ in told] == ["failing", "closed"]


@pytest.mark.prove
def test_out_within_two_seconds_of_each_of_ten_stops() -> None:
    seconds, _ = asyncio.run(stops(10))
    print(f"out after {quantiles(seconds)[1]:.2f} s, at most {max(seconds):.2f} s")
    assert max(seconds) < 2.0
