"""Replicas over one database: what is in force where, who is waited for, and what the log and the audit log tell."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from headgate.core.clock import SystemClock
from headgate.core.errors import BadCall, Conflict, HeadgateError, NotFound
from headgate.core.tasks import Tasks
from headgate.release.switches import FORGET_SECONDS, LIVE_SECONDS, PRUNE_SECONDS, SWITCHES_MAX
from headgate.storage.sql import tables_release as tables
from headgate.storage.sql import tables_tenancy
from tests.clock import VirtualClock
from tests.release.desk import ADMIN, Replica, replicas, run, states


async def silent(replica: Replica, seconds: float) -> None:
    """As if this replica had written nothing for so long."""

    def work(db: sa.Connection) -> None:
        rows = tables.replicas
        mine = sa.update(rows).where(rows.c.instance == replica.name)
        db.execute(mine.values(seen_at=rows.c.seen_at - seconds))

    await replica.sql.run(work)


async def audit(replica: Replica) -> list[tuple[str, str, str | None, str | None]]:
    """Type, target, user and project of the lines about switches, oldest first."""

    def work(db: sa.Connection) -> list[tuple[str, str, str | None, str | None]]:
        c = tables_tenancy.audit.c
        query = sa.select(c.type, c.target, c.actor_user, c.project).where(c.type.like("kill_switch.%"))
        return [tuple(row) for row in db.execute(query.order_by(c.at, c.id))]

    return await replica.sql.read(work)


def test_a_change_is_in_force_where_it_was_made_and_elsewhere_once_acknowledged(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        made, force = await one.on(name="gpt-4o", fallback_model="gpt-4o-mini")
        assert one.snapshot.model("gpt-4o", clock.now()) == made
        assert two.snapshot.model("gpt-4o", clock.now()) is None
        assert (force.everywhere, states(force)) == (False, {"one": "in_force", "two": "waiting"})
        await two.watch.refresh()
        assert two.snapshot.model("gpt-4o", clock.now()) == made
        assert (await one.verbs.force()).everywhere
        _, force = await two.verbs.turn_off(made.id, ADMIN, 0.0)
        assert (two.names(), one.names()) == ([], ["gpt-4o"])
        assert states(force) == {"one": "waiting", "two": "in_force"}

    run(sql_url, main)


def test_the_change_waits_for_every_replica_and_then_all_have_it(sql_url: str) -> None:
    async def main() -> None:
        tasks = Tasks()
        async with replicas(sql_url, SystemClock()) as (one, two):
            tasks.spawn(two.watch.watch(random.Random(1)))
            try:
                for number in range(5):
                    made, force = await one.on(30.0, name=f"m{number}")
                    assert (force.everywhere, two.names()[0]) == (True, f"m{number}")
                    assert two.snapshot.model(f"m{number}", SystemClock().now()) == made
                _, force = await one.verbs.turn_off(made.id, ADMIN, 30.0)
                assert (force.everywhere, "m4" in two.names()) == (True, False)
            finally:
                await tasks.aclose()

    asyncio.run(main())


def test_a_replica_that_does_not_follow_is_named_when_the_wait_is_over(sql_url: str) -> None:
    async def main() -> None:
        async with replicas(sql_url, SystemClock()) as (one, _):
            _, force = await one.on(0.2)
            assert (force.everywhere, states(force)) == (False, {"one": "in_force", "two": "waiting"})

    asyncio.run(main())


def test_a_silent_replica_is_not_waited_for_but_named_until_it_is_forgotten(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        await silent(two, LIVE_SECONDS + 5)
        _, force = await one.on(30.0)  # on a clock that stands still: to wait would be to wait for ever
        assert (force.everywhere, states(force)) == (False, {"one": "in_force", "two": "silent"})
        await silent(two, FORGET_SECONDS)
        assert states(await one.verbs.force()) == {"one": "in_force"}
        await two.watch.refresh()
        assert states(await one.verbs.force()) == {"one": "in_force", "two": "in_force"}, "it was only cut off"

    run(sql_url, main)


def test_a_replica_says_now_and_then_that_it_is_there_although_nothing_changes(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        await silent(two, LIVE_SECONDS + 5)
        clock.jump(LIVE_SECONDS)
        await two.watch.refresh()
        (standing,) = [each for each in (await one.verbs.force()).replicas if each.instance == "two"]
        assert standing.silent_s < LIVE_SECONDS

    run(sql_url, main)


def test_one_that_stopped_properly_is_not_counted(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        await two.watch.leave()
        _, force = await one.on()
        assert (force.everywhere, states(force)) == (True, {"one": "in_force"})

    run(sql_url, main)


def test_one_that_is_about_to_start_is_waited_for(sql_url: str) -> None:
    """It stands in the list before it reads: what it may have missed waits for it."""

    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        await two.watch.leave()
        late = Replica(one.sql, "late", clock)
        await late.watch._tell()
        _, force = await one.on()
        assert states(force) == {"one": "in_force", "late": "waiting"}
        await late.watch.start()
        assert (await one.verbs.force()).everywhere
        assert late.names() == ["gpt-4o"]

    run(sql_url, main)


def test_a_switch_ends_by_the_time_without_a_write_and_says_so(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        made, _ = await one.on(expires_at=clock.now() + 60)
        await two.watch.refresh()
        clock.jump(59)
        assert two.snapshot.model("gpt-4o", clock.now()) == made
        clock.jump(1)
        assert two.snapshot.model("gpt-4o", clock.now()) is None, "before anybody looked at SQL"
        assert two.watch.active()["model"] == 0
        assert two.names() == ["gpt-4o"]
        two.watch.expire()
        assert two.names() == []
        assert two.said() == [("switch.on", "gpt-4o"), ("switch.expired", "gpt-4o")]
        assert await one.verbs.all() == []
        with pytest.raises(NotFound):
            await one.verbs.turn_off(made.id, ADMIN, 0.0)

    run(sql_url, main)


def test_the_log_of_every_replica_tells_of_every_change_once(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        first, _ = await one.on(name="a")
        await two.watch.refresh()
        await two.on(name="a", reason="Still.")
        await two.verbs.turn_off(first.id, ADMIN, 0.0)
        for each in (one, two):
            await each.watch.refresh()
            await each.watch.refresh()
        assert two.said() == [("switch.on", "a"), ("switch.on", "a"), ("switch.off", "a")]
        assert one.said() == [("switch.on", "a"), ("switch.off", "a")], "what was over before it looked is no news"
        assert {line["level"] for line in one.lines} == {"warning"}
        restarted = Replica(one.sql, "one", clock)
        await one.on(name="b")
        await restarted.watch.start()
        assert restarted.said() == [("switch.on", "b")]

    run(sql_url, main)


def test_the_same_again_replaces_it_and_every_change_is_audited(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        first, _ = await one.on(kind="tenant", name="default")
        clock.jump(1)
        second, _ = await two.on(kind="tenant", name="default", fallback_model="small")
        assert (second.id, second.fallback_model) == (first.id, "small")
        assert [one.id for one in await one.verbs.all()] == [first.id]
        clock.jump(1)
        await one.verbs.turn_off(first.id, ADMIN, 0.0)
        with pytest.raises(NotFound):
            await one.verbs.turn_off(first.id, ADMIN, 0.0)
        assert await audit(one) == [
            (f"kill_switch.{what}", first.id, "user_boss", "default") for what in ("created", "updated", "deleted")
        ]

    run(sql_url, main)


def test_what_ended_long_ago_goes_and_its_name_is_free(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        old, _ = await one.on(name="a", expires_at=clock.now() + 1)
        clock.jump(2)
        new, _ = await one.on(name="a")
        assert new.id != old.id
        await one.on(name="b", expires_at=clock.now() + 1)
        clock.jump(PRUNE_SECONDS + 2)
        await one.on(name="c")
        _, rows = await one.watch.store.switches()
        assert sorted(row.name for row in rows) == ["a", "c"]
        assert [line[0] for line in await audit(one)] == ["kill_switch.created"] * 4

    run(sql_url, main)


def test_there_are_only_so_many(tmp_path: Path) -> None:
    async def main(one: Replica, _: Replica, _clock: VirtualClock) -> None:
        def work(db: sa.Connection) -> None:
            row = {"kind": "model", "created_at": 1.0, "created_by": "cli", "reason": "x"}
            db.execute(
                sa.insert(tables.switches),
                [{**row, "id": f"switch_{number}", "name": f"m{number}"} for number in range(SWITCHES_MAX)],
            )

        await one.sql.run(work)
        with pytest.raises(Conflict):
            await one.on(name="one more")
        await one.on(name="m7", reason="One of them may be replaced.")

    run(f"sqlite:///{tmp_path}/state.db", main)


BAD = [
    ({"kind": "planet"}, "kind"),
    ({"name": ""}, "name"),
    ({"name": "x" * 257}, "name"),
    ({"name": "a\x00b"}, "name"),
    ({"name": "\ud800"}, "name"),
    ({"kind": "tenant", "name": "nobody"}, "name"),
    ({"reason": ""}, "reason"),
    ({"reason": " "}, "reason"),
    ({"message": "two\nlines"}, "message"),
    ({"expires_at": 5.0}, "expires_at"),
    ({"expires_at": 1e300}, "expires_at"),
    ({"expires_at": float("nan")}, "expires_at"),
    ({"fallback_model": ""}, "fallback_model"),
    ({"fallback_model": "gpt-4o"}, "fallback_model"),
    ({"name": "gpt-*", "fallback_model": "gpt-4o-mini"}, "fallback_model"),
    ({"kind": "backend", "name": "openai", "fallback_model": "m"}, "fallback_model"),
]


@pytest.mark.parametrize(("fields", "field"), BAD)
def test_a_wrong_wish_is_refused_by_its_field_and_changes_nothing(
    tmp_path: Path, fields: dict[str, Any], field: str
) -> None:
    async def main(one: Replica, _: Replica, _clock: VirtualClock) -> None:
        with pytest.raises(BadCall) as caught:
            await one.on(**fields)
        assert caught.value.param == field
        assert (await one.verbs.all(), await audit(one)) == ([], [])

    run(f"sqlite:///{tmp_path}/state.db", main)


def test_while_sql_is_away_the_last_switches_stay_and_the_log_says_so_once(tmp_path: Path) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        made, _ = await one.on(expires_at=clock.now() + 60)
        await two.watch.refresh()
        await one.sql.aclose()
        for _ in range(3):
            await two.watch.follow()
        assert two.snapshot.model("gpt-4o", clock.now()) == made
        assert two.said() == [("switch.on", "gpt-4o"), ("switches.stale", "")]
        with pytest.raises(HeadgateError):
            await two.on(name="more")
        fresh = Replica(one.sql, "fresh", clock)
        with pytest.raises(HeadgateError):
            await fresh.watch.start()

    run(f"sqlite:///{tmp_path}/state.db", main)


def test_changes_made_at_once_in_two_processes_are_all_there_in_both(sql_url: str) -> None:
    async def main(one: Replica, two: Replica, clock: VirtualClock) -> None:
        await asyncio.gather(*((one, two)[number % 2].on(name=f"m{number}") for number in range(12)))
        await asyncio.gather(one.watch.refresh(), two.watch.refresh())
        assert sorted(one.names()) == sorted(two.names()) == sorted(f"m{number}" for number in range(12))
        assert (await one.verbs.force()).everywhere

    run(sql_url, main)
