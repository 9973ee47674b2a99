"""Wall clocks that jump and differ: limits, holds and the ledger's order keep to time that only goes on; days and
months are what the wall says.

With libfaketime whole servers are shown another time; the same promises are kept in one process by a clock of our own.
"""

import asyncio
import calendar
import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.core.limiter import Account, Cost, Plan, Rate
from headgate.core.policy import Budget, BudgetPeriod, Governed, Policy
from headgate.core.principal import Principal
from headgate.pipeline.plans import Plans
from headgate.storage.limits.memory import MemoryLimiter
from tests.clock import VirtualClock
from tests.live import Live, serving
from tests.load.test_budget_race import CONFIG, HOLD, PRICES, Race
from tests.pipeline.spine import make_call
from tests.stores.faketime import Wall, library
from tests.stores.house import Callers, Told, last_words
from tests.stores.house import most_in_a_second as most

LIMIT = 12
HOUR, DAY = 3_600, 86_400
JUMPS = (0, HOUR, -HOUR, DAY, -DAY, 3 * DAY)


@contextlib.contextmanager
def gate(folder: Path, upstream: str, found: str) -> Iterator[tuple[Race, Wall]]:
    wall = Wall(folder, found)
    (folder / "prices.toml").write_text(PRICES)
    config = CONFIG.format(counters="memory", sql="null", folder=folder, upstream=upstream)
    with serving(folder / "home", config, wall.environment) as live:
        yield Race([live]), wall


def tenant(race: Race, name: str, **policy: object) -> str:
    key: str = race.post("/admin/keys", {"name": name, "tenant": name})["key"]
    race.gates[0].put(f"/v1/organization/projects/{name}/policy", policy)
    return key


async def jumping(wall: Wall, rng: random.Random, seconds: float) -> None:
    """Ten jumps a second, and back home."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        wall.jump(rng.choice(JUMPS))
        await asyncio.sleep(0.1)
    wall.jump(0)


def receipts(live: Live, tenant: str) -> list[str]:
    """The calls of a project's receipts, in the order of the log."""
    lines = [
        json.loads(line) for path in sorted(live.home.glob("ledger/*.jsonl")) for line in path.read_text().splitlines()
    ]
    return [line["call_id"] for line in lines if line.get("tenant") == tenant]


def check_alive(live: Live) -> None:
    assert live.process.poll() is None
    assert live.events("task.died") == live.events("bug") == []


def jumps(folder: Path, upstream: str, found: str, seconds: float) -> None:
    limit = {"unit": "requests", "amount": LIMIT, "per": "second", "algorithm": "sliding_log"}
    with gate(folder, upstream, found) as (race, wall):
        live = race.gates[0]
        limited, ordered = tenant(race, "limited", limits=[limit]), tenant(race, "ordered")
        callers, one_by_one = Callers([live.port]), Callers([live.port])

        async def in_turn() -> None:
            while True:
                await one_by_one.call(ordered)

        async def main() -> float:
            async with callers.pouring([limited], 3 * LIMIT):
                turns = asyncio.ensure_future(in_turn())
                await jumping(wall, random.Random(19), seconds)
                calm = time.monotonic()
                await asyncio.sleep(3.0)
                turns.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await turns
            return calm

        calm = asyncio.run(main())
        after = [told for told in callers.told if told.sent > calm + 1.0]
        print(
            f"jumps for {seconds:g} s: at most {most(callers.told)} calls in a second of {LIMIT}, after {most(after)}"
        )
        assert set(callers.codes()) == {"200", "rate_limit_exceeded"}
        assert most(callers.told) <= 2 * LIMIT, "a limit may err over one window"
        assert most(after) <= LIMIT
        assert sum(told.status == 200 for told in after) >= LIMIT // 2
        check_alive(live)
        calls = [told.call for told in one_by_one.told]
        assert set(one_by_one.codes()) == {"200"}
        assert receipts(live, "ordered")[: len(calls)] == calls
        assert live.get("/admin/usage?tenant=ordered", live.key)[0] == 200  # ships what there is
        with contextlib.closing(sqlite3.connect(live.home / "headgate.db")) as db:
            shipped = db.execute("SELECT call_id FROM ledger WHERE tenant = 'ordered' ORDER BY rowid").fetchall()
        assert [call for (call,) in shipped][: len(calls)] == calls


def noon(year: int, month: int, day: int) -> float:
    return calendar.timegm((year, month, day, 12, 0, 0))


def periods(folder: Path, upstream: str, found: str) -> None:
    with gate(folder, upstream, found) as (race, wall):
        wall.to(noon(2031, 3, 10))
        daily = tenant(race, "daily", budgets=[{"amount": 0.02, "per": "day"}])
        monthly = tenant(race, "monthly", budgets=[{"amount": 0.02, "per": "month"}])
        callers = Callers([race.gates[0].port])

        def state(key: str) -> str:
            told = asyncio.run(callers.call(key, stream=False))
            return told.code or "served"

        for key in (daily, monthly):
            asyncio.run(last_words(callers, key))
        wall.to(noon(2031, 3, 11))
        assert (state(daily), state(monthly)) == ("served", "insufficient_quota")
        wall.to(noon(2031, 4, 1))
        assert (state(daily), state(monthly)) == ("served", "served")
        wall.to(noon(2031, 3, 10))
        assert (asyncio.run(last_words(callers, daily)).code, state(monthly)) == ("insufficient_quota",) * 2
        check_alive(race.gates[0])


def holds(folder: Path, upstream: str, found: str) -> None:
    with gate(folder, upstream, found) as (race, wall):
        key = tenant(race, "held", budgets=[{"amount": 1.5 * HOLD, "per": "total"}])
        slow, quick = Callers([race.gates[0].port], "honest:ms=2500"), Callers([race.gates[0].port])
        slow.number = quick.number = 8  # the next asks for the most there is

        async def main() -> list[Told]:
            first = asyncio.ensure_future(slow.call(key))
            await asyncio.sleep(0.5)
            refused = []
            for offset in JUMPS:
                wall.jump(offset)
                quick.number = 8
                refused.append(await quick.call(key))
            wall.jump(0)
            assert (await first).status == 200
            return refused

        refused = asyncio.run(main())
        assert {told.code for told in refused} == {"budget_reserved"}
        quick.number = 0
        assert asyncio.run(quick.call(key)).status == 200
        check_alive(race.gates[0])


def days() -> None:
    """Which accounts a call is charged to, at which time."""
    periods: tuple[BudgetPeriod, ...] = ("day", "month")
    policy = Policy(budgets=tuple(Budget(1.0, per=per) for per in periods))
    principal = Principal("key", "acme", frozenset({"inference"}), policies=(Governed("project", "acme", policy),))
    plans = Plans(Policy)
    keys = [
        [
            account.key.rpartition(":")[2]
            for account in plans.find(principal, make_call(VirtualClock()), at).plan.accounts
        ]
        for at in (noon(2031, 3, 10), noon(2031, 3, 11), noon(2031, 4, 1), noon(2031, 3, 10))
    ]
    assert keys == [
        ["2031-03-10", "2031-03"], ["2031-03-11", "2031-03"], ["2031-04-01", "2031-04"], ["2031-03-10", "2031-03"],
    ]  # fmt: skip


class Jumping(VirtualClock):
    """Its wall may be anywhere, while time goes on."""

    offset_s = 0.0

    def now(self) -> float:
        return super().now() + self.offset_s


def virtual(seed: int, steps: int) -> None:
    """A limit and a budget in one process, against sums of our own, while the wall jumps at every step."""
    clock, rng = Jumping(), random.Random(seed)
    limiter = MemoryLimiter(clock)
    log = Rate(key="log", amount=10, window_s=1.0, burst=10, algorithm="sliding_log")
    budget = Account(key="budget", limit=50, keep_s=1e6)
    plan = Plan(rates=(log,), accounts=(budget,))
    ended = Plan(accounts=plan.accounts)
    let_in: list[float] = []
    held: dict[str, float] = {}

    async def main() -> None:
        await limiter.seed([(budget, 0)])
        for step in range(steps):
            clock.jump(rng.uniform(0, 0.1))
            clock.offset_s = rng.choice(JUMPS)
            now = clock.monotonic()
            verdict = await limiter.reserve(f"c{step}", plan, Cost(nanos=10), 30.0)
            recent = sum(at > now - 1.0 for at in let_in)
            assert verdict.allowed == (recent < 10 and len(held) < 5), (step, recent, len(held))
            if verdict.allowed:
                let_in.append(now)
                held[f"c{step}"] = now
            for claim, at in list(held.items()):
                if now - at > 0.5:
                    limiter.settle(claim, ended, Cost(nanos=10), Cost())
                    del held[claim]
            (state,) = await limiter.balances(["budget"])
            assert state is not None
            assert (state.spent, state.held) == (0, 10 * len(held))

    asyncio.run(main())


def test_a_clock_that_jumps_frees_no_limit_and_no_hold() -> None:
    for seed in range(5):
        virtual(seed, 1_000)


def test_a_servers_limits_and_the_ledgers_order_outlive_jumps_of_its_clock(model_server: str, tmp_path: Path) -> None:
    found = library()
    if found is None:
        virtual(99, 5_000)
    else:
        jumps(tmp_path, model_server, found, 2.0)


def test_days_and_months_begin_where_utc_says() -> None:
    days()


def test_days_and_months_are_what_the_clock_says(model_server: str, tmp_path: Path) -> None:
    found = library()
    if found is None:
        days()
    else:
        periods(tmp_path, model_server, found)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_what_is_held_stays_held_while_the_clock_jumps(model_server: str, tmp_path: Path) -> None:
    found = library()
    if found is None:
        virtual(7, 50_000)
    else:
        holds(tmp_path, model_server, found)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_two_hundred_jumps(model_server: str, tmp_path: Path) -> None:
    found = library()
    if found is None:
        virtual(8, 50_000)
    else:
        jumps(tmp_path, model_server, found, 20.0)
