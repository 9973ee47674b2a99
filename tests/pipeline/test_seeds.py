"""Accounts are made from the ledger, and compared with it, without counting a call twice."""

import asyncio
from collections.abc import Sequence

from headgate.core.clock import SystemClock
from headgate.core.limiter import Account, AccountState, Cost, Plan
from headgate.core.policy import Budget, Governed, Policy
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.pipeline.plans import Charge, Terms
from headgate.pipeline.seeds import BRIDGE_S, KNOWN_MAX, SETTLED_S, Seeds, Spent
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.redis import RedisLimiter
from headgate.telemetry.log import Log
from tests import servers
from tests.clock import VirtualClock
from tests.storage.limits.proxy import Proxy

ACCOUNT = Account(key="budget", limit=1_000, keep_s=3_600.0)
CHARGE = Charge(Governed("project", "p", Policy()), Budget(amount=1.0), "", 0.0, None)


def terms_of(account: Account) -> Terms:
    plan = Plan(accounts=(account,))
    return Terms(plan, Plan(), plan, (), (), (CHARGE,), (), True, False, True, 1.0, "interactive")


TERMS = terms_of(ACCOUNT)
PLAN = TERMS.plan


def seeds_of(limiter: MemoryLimiter | RedisLimiter, spent: Spent, clock: SystemClock | VirtualClock) -> Seeds:
    seeds = Seeds(limiter, spent, clock, Log(clock))
    seeds.know(TERMS)
    return seeds


def test_a_call_that_ends_while_the_ledger_is_asked_is_counted_once() -> None:
    async def main(redis_url: str) -> None:
        async with Proxy(redis_url).listening() as proxy:
            limiter = RedisLimiter.at(proxy.url, SystemClock(), 20.0, "test-seeds:")

            async def spent(questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
                """The call ends, its receipt arrives at once, and what is told the store is lost on its way."""
                seen = proxy.scripts
                proxy.fates.append("before")
                limiter.settle("call", PLAN, Cost(nanos=100), Cost(nanos=60))
                while proxy.scripts == seen:
                    await asyncio.sleep(0)
                return [(60, 0)]

            try:
                await limiter.seed([(ACCOUNT, 0)])
                assert (await limiter.reserve("call", PLAN, Cost(nanos=100), 60.0)).allowed
                seeds = seeds_of(limiter, spent, SystemClock())
                seeds.recheck(["budget"])
                await seeds.compare()
                await limiter.flush()
                assert await limiter.balances(["budget"]) == [AccountState(60, 0)]
            finally:
                await limiter.aclose()

    server, url = servers.start_redis()
    try:
        asyncio.run(main(url))
    finally:
        server.stop()


def test_what_a_store_forgot_is_held_until_the_ledger_has_caught_up() -> None:
    """Redis came back empty: calls that were under way held 300 of what this process last saw."""

    async def main() -> None:
        clock = VirtualClock()
        limiter = MemoryLimiter(clock)
        ledger = [500]

        async def spent(questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
            return [(ledger[0], 0)] * len(questions)

        seeds = seeds_of(limiter, spent, clock)
        seeds.last_known = lambda key: 800
        await seeds.fill(TERMS, [0])
        assert await limiter.balances(["budget"]) == [AccountState(500, 300)]
        ledger[0] = 760  # what those calls cost in the end
        clock.jump(BRIDGE_S - 1)
        await seeds.compare()
        assert await limiter.balances(["budget"]) == [AccountState(760, 300)]
        clock.jump(1)
        await seeds.compare()
        assert await limiter.balances(["budget"]) == [AccountState(760, 0)]

    asyncio.run(main())


def test_an_account_that_others_made_meanwhile_is_no_store_that_forgot() -> None:
    async def main() -> None:
        clock = VirtualClock()
        limiter = MemoryLimiter(clock)
        await limiter.seed([(ACCOUNT, 0)])

        async def spent(questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
            return [(500, 0)] * len(questions)

        seeds = seeds_of(limiter, spent, clock)
        seeds.last_known = lambda key: 800
        await seeds.fill(TERMS, [0])
        assert await limiter.balances(["budget"]) == [AccountState(0, 0)]

    asyncio.run(main())


def test_only_entries_that_every_replica_has_settled_by_now_are_compared() -> None:
    async def main() -> None:
        clock = VirtualClock()
        asked: list[SpendQuestion] = []

        async def spent(questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
            asked.extend(questions)
            return [(5, 0)] * len(questions)

        seeds = seeds_of(MemoryLimiter(clock), spent, clock)
        await seeds.fill(TERMS, [0])  # nobody holds anything in an account that is new: all there is counts
        seeds.recheck(["budget"])
        await seeds.compare()
        assert [question.ended_by for question in asked] == [None, clock.now() - SETTLED_S]

    asyncio.run(main())


def test_an_account_that_many_calls_ask_for_is_read_from_the_ledger_once() -> None:
    async def main() -> None:
        clock = VirtualClock()
        limiter = MemoryLimiter(clock)
        asked: list[int] = []

        async def spent(questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
            asked.append(len(questions))
            await asyncio.sleep(0)
            clock.jump(0.01)
            return [(5, 0)] * len(questions)

        seeds = seeds_of(limiter, spent, clock)
        await asyncio.gather(*[seeds.fill(TERMS, [0]) for _ in range(100)])
        assert asked == [1]
        assert await limiter.balances(["budget"]) == [AccountState(5, 0)]
        for _ in range(1_000):
            seeds.recheck(["budget"])
        await seeds.compare()
        await seeds.compare()
        assert asked == [1, 1]  # a thousand calls that ended together are one question
        clock.jump(3_600)
        await limiter.seed([(ACCOUNT, 5)])
        await seeds.fill(TERMS, [0])
        assert asked == [1, 1, 1]

    asyncio.run(main())


def test_more_accounts_than_can_be_remembered_push_out_the_oldest_and_no_others() -> None:
    async def main() -> None:
        clock = VirtualClock()
        asked: list[int] = []

        async def spent(questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
            asked.append(len(questions))
            return [(0, 0)] * len(questions)

        seeds = seeds_of(MemoryLimiter(clock), spent, clock)
        for number in range(KNOWN_MAX - 1):
            seeds.know(terms_of(Account(key=f"session-{number}", limit=1, keep_s=60.0)))
        seeds.know(TERMS)  # a plan of its own for another session
        seeds.know(terms_of(Account(key="one more", limit=1, keep_s=60.0)))
        seeds.recheck(["budget", "session-0", "session-1", "one more"])
        await seeds.compare()
        assert asked == [3]

    asyncio.run(main())
