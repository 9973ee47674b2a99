"""A caller that leaves in any turn of the event loop, whatever its call is doing, leaves nothing behind."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from headgate.core.call import Call
from headgate.core.errors import HeadgateError, Overloaded, Truncated, Upstream, UpstreamTimeout
from headgate.core.events import Event, Finish, Text
from headgate.core.policy import Budget
from headgate.core.ports import Progress
from headgate.core.rules import Hedge, HoldBack, Rules
from headgate.core.usage import Usage
from headgate.pipeline.gate import GateSettings
from headgate.pipeline.hedging import ENOUGH
from headgate.pipeline.retry_budget import RetrySettings
from tests.pipeline.spine import Spine, Tell, Telling, hangs
from tests.pipeline.test_budgets import paying

WHOLE = (Text("one "), Text("two "), Text("three"), Finish("stop"), Usage(input=3, output=3))
MODES = ["alone", "crowded", "deserted"]
"""By itself; with two others at backends that take one at a time; and in the turn in which all of those fall silent."""
ACCOUNT = "project:acme:usd/total/all/*::all"


def slowly(*items: Event | HeadgateError) -> Tell:
    """Each after a turn of the loop."""

    async def tell(call: Call, progress: Progress) -> AsyncGenerator[Event | bytes]:
        for item in items:
            await asyncio.sleep(0)
            if isinstance(item, HeadgateError):
                raise item
            progress.output_tokens += 1
            yield item

    return tell


CUT = slowly(*WHOLE[:2], Truncated("cut"))
BUSY = slowly(Overloaded("busy", status=429, retry_after=0.001))


def plain(spine: Spine) -> None:
    spine.rule(Rules(), shared=True)


def held_back(spine: Spine) -> None:
    spine.rule(Rules(hold_back=HoldBack(tokens=2, ms=50.0)), shared=True)


def hedged(spine: Spine) -> None:
    spine.rule(Rules(balance="round_robin", hedge=Hedge(min_s=0.0, max_extra=1.0)), shared=True)
    for _ in range(ENOUGH):
        spine.path.upstreams.hedges("m").began(0.0)
        spine.path.upstreams.hedges("m").came(Hedge(max_extra=1.0))


def waiting(spine: Spine) -> None:
    spine.rule(Rules(), shared=True)
    spine.path.upstreams.retries.use(RetrySettings(backoff_s=0.001))


CASES: list[tuple[str, Callable[[Spine], None], tuple[Tell, ...]]] = [
    ("plain", plain, (slowly(*WHOLE),)),
    ("rescued", plain, (CUT, CUT, slowly(*WHOLE))),
    ("diverged", plain, (CUT, slowly(Text("other"), *WHOLE[3:]), slowly(*WHOLE))),
    ("held back", held_back, (slowly(Text("x"), Truncated("cut")), slowly(*WHOLE))),
    ("hedged", hedged, (slowly(*WHOLE), slowly(*WHOLE))),
    ("hedged and cut", hedged, (CUT, hangs(), slowly(*WHOLE))),
    ("hedged and refused", hedged, (slowly(Upstream("500")), BUSY, slowly(*WHOLE))),
    ("tried again", waiting, (slowly(Upstream("500")), BUSY)),
]


@pytest.mark.parametrize(("name", "rule", "tells"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("mode", MODES)
def test_who_leaves_leaves_nothing(
    tmp_path: Path, name: str, rule: Callable[[Spine], None], tells: tuple[Tell, ...], mode: str
) -> None:
    asyncio.run(all_leave(tmp_path, rule, tells, mode, range(1 + len(name) % 9, 60, 9)))


@pytest.mark.prove
@pytest.mark.parametrize(("name", "rule", "tells"), CASES, ids=[case[0] for case in CASES])
@pytest.mark.parametrize("mode", MODES)
def test_who_leaves_in_any_turn_leaves_nothing(
    tmp_path: Path, name: str, rule: Callable[[Spine], None], tells: tuple[Tell, ...], mode: str
) -> None:
    asyncio.run(all_leave(tmp_path, rule, tells, mode, range(1, 150)))


async def all_leave(
    tmp_path: Path, rule: Callable[[Spine], None], tells: tuple[Tell, ...], mode: str, turns: range
) -> None:
    for turn in turns:
        folder = tmp_path / str(turn)
        folder.mkdir()
        backends = [Telling(f"b{place}", tell) for place, tell in enumerate(tells)]
        spine = Spine(folder, backends, principal=paying(Budget(100.0, per="total")))
        rule(spine)
        await left_after(turn, spine, mode)


async def left_after(turns: int, spine: Spine, mode: str) -> None:
    crowded = mode != "alone"
    if crowded:
        spine.path.gates.use(GateSettings(), dict.fromkeys(spine.backends, 1))
    calls = [asyncio.create_task(one_call(spine)) for _ in range(3 if crowded else 1)]
    for _ in range(turns):
        await asyncio.sleep(0)
    if mode == "deserted":
        for at in spine.backends:
            spine.path.upstreams.desert(at, UpstreamTimeout("silent", code="upstream_silent"))
    for _ in range(1 + turns % 3):
        calls[0].cancel()
        await asyncio.sleep(0)
    await asyncio.sleep(0.002)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    for call in calls:
        if not call.cancelled() and (error := call.exception()) is not None:
            assert isinstance(error, HeadgateError), error
    if mode == "alone" and calls[0].cancelled():
        assert {line["outcome"] for line in spine.done()} <= {"cancelled", "ok"}
    spine.at_rest()
    upstreams = spine.path.upstreams
    assert not upstreams._running
    assert {at: load.requests for at, load in upstreams.balancer.loads().items() if load.requests} == {}
    assert {at: load.prompt_tokens + load.output_tokens for at, load in upstreams.balancer.loads().items()} in (
        {},
        dict.fromkeys(upstreams.balancer.loads(), 0),
    )
    for at in spine.backends:
        pulse = upstreams.replicas.pulse(at)
        assert (pulse.in_flight, pulse.waiting) == (0, 0)
    assert spine.journal.under_way == 0
    receipts = [receipt.id for receipt in spine.receipts()]
    assert len(receipts) == len(set(receipts)) == sum(line["attempts"] for line in spine.done())
    assert len(spine.done()) == len(calls)
    (state,) = await spine.limiter.balances([ACCOUNT])
    if state is not None:
        assert (state.held, state.spent) == (0, sum(receipt.cost_nanos or 0 for receipt in spine.receipts()))


async def one_call(spine: Spine) -> None:
    """As the api makes it."""
    reply = await spine.handle()
    reason: HeadgateError | None = None
    try:
        assert reply.stream is not None
        async for _ in reply.stream:
            await asyncio.sleep(0)
    except HeadgateError as error:
        reason = error
        raise
    finally:
        await reply.aclose(reason)
