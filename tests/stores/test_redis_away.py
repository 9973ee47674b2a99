"""Redis dies, stands still, is emptied or only reads, in the middle of everything: limits follow their `on_loss`,
budgets never open, and both are exact again when it is back.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from headgate.core.policy import NANOS
from tests.live import until
from tests.load.test_budget_race import HOLD
from tests.stores.house import (
    Callers,
    House,
    check_accounts,
    check_books,
    house,
    last_words,
    most_in_a_second,
)

BUDGET = 2.0
PER_SECOND = 60
CALLERS_PER_DOLLAR = 400
"""Of a race to the end: more than the budget can pay."""
RACERS_PER_SECOND = 100
STRAY = NANOS // 20
"""Nanodollars that an account may count twice where a replica ends calls while another compares it with the ledger:
on the safe side, and bounded by what ends in that moment.
"""
LIMIT = 12
"""Requests per second of the limited projects."""

Trouble = Callable[[House], None]


def kill(found: House) -> None:
    found.redis.kill()


def start(found: House) -> None:
    found.redis.start()


def pause(found: House) -> None:
    found.redis.server.pause()


def resume(found: House) -> None:
    found.redis.server.resume()


def only_read(found: House) -> None:
    """A replica of a primary that is not there, which still answers."""
    found.redis.tell("REPLICAOF", "127.0.0.1", "9")


def write_again(found: House) -> None:
    found.redis.tell("REPLICAOF", "NO", "ONE")


def empty(found: House) -> None:
    found.redis.tell("FLUSHALL")


def forget_scripts(found: House) -> None:
    found.redis.tell("SCRIPT", "FLUSH")


def nothing(found: House) -> None:
    pass


TROUBLES: dict[str, tuple[Trouble, Trouble]] = {
    "killed": (kill, start),
    "paused": (pause, resume),
    "read-only": (only_read, write_again),
    "flushed": (empty, nothing),
    "scripts forgotten": (forget_scripts, nothing),
}
LEAVES = {"killed", "paused", "read-only"}
"""Troubles in which the store is away for a while."""


async def racers(callers: Callers, key: str, rng: random.Random, count: int) -> None:
    """So many callers, at random times."""

    async def one() -> None:
        await asyncio.sleep(rng.uniform(0, count / RACERS_PER_SECOND))
        await callers.call(key)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())


async def strike(found: House, trouble: str, at_s: float, away_s: float) -> float:
    """When it struck, in Unix seconds."""
    begin, end = TROUBLES[trouble]
    await asyncio.sleep(at_s)
    struck = time.time()
    await asyncio.to_thread(begin, found)
    await asyncio.sleep(away_s)
    await asyncio.to_thread(end, found)
    return struck


def race(found: House, name: str, trouble: str, seed: int, budget: float = BUDGET) -> int:
    """Trouble; then, once ledger and accounts agree, a race for what is left. Nanodollars spent in the end."""
    rng = random.Random(seed)
    key = found.tenant(name, budgets=[{"amount": budget, "per": "total"}])
    callers = Callers(found.ports)
    struck = 0.0

    async def troubled() -> None:
        nonlocal struck
        async with callers.pouring([key], PER_SECOND):
            struck = await strike(found, trouble, rng.uniform(0.3, 1.5), rng.uniform(1.5, 3.0))
            await asyncio.sleep(1.0)

    asyncio.run(troubled())
    opened, codes = found.degraded(struck), callers.codes()
    slowest = max(told.answered - told.sent for told in callers.told)
    print(f"{trouble}, {len(found.gates)} gateways, seed {seed}: {dict(codes)}, slowest {slowest:.2f} s", end="; ")
    print(f"limits without store after {[round(at, 2) for at in opened]} s")
    if trouble in LEAVES:
        assert len(opened) == len(found.gates)
    until(lambda: not any(gate.gauge("headgate_limits_degraded") for gate in found.gates), 20.0)
    check_books(found, [name], callers.told)
    check_accounts(found, name, STRAY)
    asyncio.run(racers(callers, key, rng, int(budget * CALLERS_PER_DOLLAR)))
    asyncio.run(last_words(callers, key))
    check_books(found, [name], callers.told)
    check_accounts(found, name, STRAY)
    spent = sum(nanos for *_, nanos in found.rows(name))
    print(f"{trouble}: {spent / NANOS:.6f} of {budget:g} dollars spent; {dict(callers.codes())}")
    assert callers.codes().keys() <= {"200", "insufficient_quota", "budget_reserved", "limits_unavailable"}
    assert spent <= (budget + HOLD) * NANOS, f"{spent / NANOS - budget} dollars over"
    assert spent >= (budget - HOLD) * NANOS - STRAY, f"only {spent / NANOS} dollars could be spent"
    return spent


def limited(found: House, trouble: str, steady_s: float, away_s: float) -> None:
    """Twice what is allowed is asked of three limits of `LIMIT` per second, before, during and after the trouble."""
    rules = ("local_share", "fail_open", "fail_closed")
    limit = {"unit": "requests", "amount": LIMIT, "per": "second", "algorithm": "sliding_log"}
    tag = f"{trouble.replace(' ', '-')}-{time.monotonic_ns()}"
    keys = {rule: found.tenant(f"{rule}-{tag}", limits=[{**limit, "on_loss": rule}]) for rule in rules}
    callers = {rule: Callers(found.ports) for rule in rules}
    times: dict[str, float] = {}

    async def main() -> None:
        async with asyncio.TaskGroup() as group, contextlib.AsyncExitStack() as stack:
            for rule in rules:
                await stack.enter_async_context(callers[rule].pouring([keys[rule]], 2 * LIMIT))
            await asyncio.sleep(steady_s)
            times["struck"], at = time.monotonic(), time.time()
            work = group.create_task(strike(found, trouble, 0.0, away_s))
            if trouble in LEAVES:
                await asyncio.to_thread(until, lambda: len(found.degraded(at)) == len(found.gates))
                times["open"] = time.monotonic()
                print(f"{trouble}: limits without store after {[round(s, 2) for s in found.degraded(at)]} s")
            await work
            times["back"] = time.monotonic()
            await asyncio.to_thread(until, lambda: not any(g.gauge("headgate_limits_degraded") for g in found.gates))
            times["well"] = time.monotonic()
            await asyncio.sleep(1.0 + steady_s)

    asyncio.run(main())
    print(f"{trouble}: well again {times['well'] - times['back']:.2f} s after it was back")
    for rule in rules:
        check_windows(rule, callers[rule], times)


def check_windows(rule: str, callers: Callers, times: dict[str, float]) -> None:
    before = [told for told in callers.told if told.answered < times["struck"]]
    after = [told for told in callers.told if told.sent > times["well"] + 1.0]
    most = {"before": most_in_a_second(before), "after": most_in_a_second(after), "all": most_in_a_second(callers.told)}
    print(f"{rule}: most calls in a second of {LIMIT}: {most}; {dict(callers.codes())}")
    assert max(most["before"], most["after"]) <= LIMIT
    assert sum(told.status == 200 for told in after) >= LIMIT // 2, "the limit can be used again"
    if rule != "fail_open":
        assert most["all"] <= 2 * LIMIT, "a limit may err over one window, and by one window"
    if "open" in times:
        without = [told for told in callers.told if times["open"] <= told.sent and told.answered < times["back"]]
        away = Counter(told.code or str(told.status) for told in without)
        # A window later, what was let in before the loss is out of sight.
        alone = most_in_a_second([told for told in without if told.sent > times["open"] + 1.0])
        print(f"{rule}: without the store {dict(away)}, most in a second {alone}")
        assert rule != "fail_open" or set(away) == {"200"}
        assert rule != "fail_closed" or set(away) == {"limits_unavailable"}
        assert rule != "local_share" or alone <= LIMIT


def test_a_budget_outlives_the_death_of_redis_in_the_middle_of_a_race(pair: House) -> None:
    race(pair, "mid-race", "killed", seed=1, budget=1.0)


def test_limits_follow_their_rule_while_redis_is_dead_and_are_exact_again_after(pair: House) -> None:
    limited(pair, "killed", steady_s=1.5, away_s=3.0)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("gateways", [2, 4])
def test_budgets_outlive_every_trouble(gateways: int, trouble: str, model_server: str, tmp_path: Path) -> None:
    for seed in range(2):
        with house(gateways, tmp_path / str(seed), model_server) as found:
            race(found, "race", trouble, seed)


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("gateways", [2, 4])
def test_limits_outlive_every_trouble(gateways: int, trouble: str, model_server: str, tmp_path: Path) -> None:
    with house(gateways, tmp_path, model_server) as found:
        limited(found, trouble, steady_s=4.0, away_s=10.0)
