"""Spend velocity: who trips, who does not, and that nobody is stopped twice for the same money."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.errors import NotFound, Overloaded
from headgate.core.policy import NANOS, Governed, Policy, Velocity
from headgate.core.principal import KeyTable, Principal
from headgate.core.usage import Receipt
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.ledger.accounts.store import Store as Accounts
from headgate.ledger.accounts.velocity import CHECK_S, Velocities, Watched, tripped
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.telemetry.log import Log
from tests.clock import VirtualClock
from tests.ledger.test_usage import DAY, START, entry

RULE = Velocity(times=10, window_s=300, usual_s=DAY, floor_usd=1, stop_s=3_600)
NOW = START + 2 * DAY


@pytest.mark.parametrize(
    ("recent_usd", "usual_usd_per_window", "trips"),
    [(0, 0, False), (0.99, 0, False), (1, 0, True), (10, 1, False), (10.01, 1, True), (500, 51, False), (-5, 0, False)],
)
def test_it_trips_above_the_floor_and_above_so_many_times_the_usual(
    recent_usd: float, usual_usd_per_window: float, trips: bool
) -> None:
    assert tripped(round(recent_usd * NANOS), usual_usd_per_window * NANOS / RULE.window_s, RULE) is trips


@given(st.integers(0, 10**15), st.floats(0, 1e12), st.floats(1.1, 1e4))
def test_spending_as_usual_never_trips(nanos_per_window: int, floor: float, times: float) -> None:
    rule = Velocity(times=times, floor_usd=min(floor, 9e6))
    assert not tripped(nanos_per_window, nanos_per_window / rule.window_s, rule)


class Watch:
    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.clock = VirtualClock(NOW)
        self.lines: list[str] = []
        self.policies = {"acme": RULE, "calm": RULE, "new": RULE}
        self.stopped: frozenset[str] = frozenset()
        self.stops: list[tuple[str, float]] = []
        self.refuses: set[str] = set()
        self.away = False
        log = Log(self.clock, "debug", self.lines.append)
        self.velocities = Velocities(self, lambda: self.policies, lambda: self.stopped, self.stop, self.clock, log)
        self.count = 0

    async def spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        if self.away:
            raise Overloaded("the database is away")
        return await Accounts(self.sql).spent(questions)

    async def stop(self, project: str, reason: str, until: float) -> None:
        if project in self.refuses:
            raise NotFound(f"There is no project '{project}'.")
        self.stops.append((project, until))

    async def spend(self, tenant: str, usd: float, ago: float = 1) -> None:
        self.count += 1
        receipt: Receipt = entry(0, id=f"e{self.count}", tenant=tenant, cost_nanos=round(usd * NANOS))
        moved = [
            Receipt(
                **{name: getattr(receipt, name) for name in receipt.__struct_fields__}
                | {"started_at": self.clock.now() - ago}
            )
        ]
        await Store(self.sql).add_receipts(moved, "log", 1)

    def events(self, name: str) -> list[dict[str, object]]:
        return [line for line in map(json.loads, self.lines) if line["event"] == name]


def run(url: str, work: Callable[[Watch], Awaitable[None]]) -> None:
    async def main() -> None:
        sql = await open_sql(url)
        try:
            await work(Watch(sql))
        finally:
            await sql.aclose()

    asyncio.run(main())


def test_who_burns_ten_times_as_fast_is_stopped_and_the_others_go_on(sql_url: str) -> None:
    async def work(watch: Watch) -> None:
        await watch.spend("acme", 28.8, ago=DAY / 2)  # $0.10 per window
        await watch.spend("acme", 1.5)
        await watch.spend("calm", 288, ago=DAY / 2)  # $1 per window
        await watch.spend("calm", 9)
        await watch.spend("new", 0.5)
        await watch.spend("nobody's", 1_000)
        assert await watch.velocities.check() == ["acme"]
        assert watch.stops == [("acme", NOW + 3_600)]
        (event,) = watch.events("velocity.tripped")
        assert (event["tenant"], event["level"]) == ("acme", "error")
        assert "spent $1.50 in 300 s; usual are $0.10" in str(event["reason"])

    run(sql_url, work)


def test_who_was_let_go_is_not_stopped_for_the_same_money_but_for_more(sql_url: str) -> None:
    async def work(watch: Watch) -> None:
        await watch.spend("acme", 5)
        assert await watch.velocities.check() == ["acme"]
        watch.stopped = frozenset({"acme"})
        await watch.clock.advance(20)
        assert await watch.velocities.check() == []
        watch.stopped = frozenset()
        await watch.clock.advance(10)
        assert await watch.velocities.check() == []
        await watch.spend("acme", 0.9)
        assert await watch.velocities.check() == []
        await watch.spend("acme", 0.2)
        assert await watch.velocities.check() == ["acme"]

    run(sql_url, work)


def test_a_stop_made_by_another_replica_is_remembered_too(sql_url: str) -> None:
    async def work(watch: Watch) -> None:
        await watch.spend("acme", 5)
        watch.stopped = frozenset({"acme"})
        assert await watch.velocities.check() == []
        watch.stopped = frozenset()
        await watch.clock.advance(1)
        assert await watch.velocities.check() == []
        assert watch.stops == []

    run(sql_url, work)


def test_trouble_with_one_tenant_or_with_sql_is_told_and_ends_nothing(tmp_path: object) -> None:
    async def work(watch: Watch) -> None:
        watch.refuses = {"acme"}
        await watch.spend("acme", 5)
        await watch.spend("new", 5)
        task = asyncio.create_task(watch.velocities.run())
        async with asyncio.timeout(20):
            while not watch.stops:
                await watch.clock.advance(CHECK_S)
                await asyncio.sleep(0.01)
        assert {project for project, _ in watch.stops} == {"new"}
        assert watch.events("velocity.unchecked")[0]["tenant"] == "acme"
        watch.away = True
        before = len(watch.events("velocity.unchecked"))
        async with asyncio.timeout(20):
            while len(watch.events("velocity.unchecked")) == before:
                await watch.clock.advance(CHECK_S)
                await asyncio.sleep(0.01)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(f"sqlite:///{tmp_path}/x.db", work)


def test_a_clock_that_jumps_stops_nobody(sql_url: str) -> None:
    async def work(watch: Watch) -> None:
        await watch.spend("acme", 5, ago=-10 * DAY)
        assert await watch.velocities.check() == []
        watch.stopped = frozenset({"acme"})
        await watch.velocities.check()
        watch.stopped = frozenset()
        watch.clock.jump(-5 * DAY)
        assert await watch.velocities.check() == []

    run(sql_url, work)


def test_policies_and_stops_are_read_from_the_table_of_keys() -> None:
    def principal(tenant: str, *policies: Governed, blocked: str | None = None) -> Principal:
        return Principal("k", tenant, frozenset(), policies=policies, blocked=blocked)

    other = Velocity(times=3)
    organization = Governed("organization", "default", Policy(velocity=RULE))
    own = Governed("project", "acme", Policy(velocity=other))
    table = KeyTable(
        1,
        {
            "1": principal("acme", organization, own),
            "2": principal("bolt", organization, blocked="spent too fast"),
            "3": principal("free", Governed("user", "u", Policy(velocity=other))),
        },
    )
    tables = [table]
    watched = Watched(lambda: tables[-1])
    assert watched.policies() == {"acme": other, "bolt": RULE}
    assert watched.stopped() == {"bolt"}
    assert watched.policies() is watched.policies()
    tables.append(KeyTable(2, {}))
    assert (watched.policies(), watched.stopped()) == ({}, frozenset())
