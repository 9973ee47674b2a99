"""Projects, users and their keys: what ends with what, what a policy reaches, what survives."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from headgate.core.errors import BadCall, Conflict, NotFound, Overloaded, Unauthorized
from headgate.core.policy import TIME_MAX, Budget, Limit, Policy
from headgate.core.principal import KeyTable
from headgate.storage.sql import open as opening
from headgate.storage.sql import tables_tenancy as tables
from headgate.storage.sql.migrate import MIGRATIONS
from headgate.storage.sql.open import open_sql
from headgate.tenancy import edits
from headgate.tenancy.keyring import KeySpec
from headgate.tenancy.policies import Owner
from headgate.tenancy.records import CLI, SYSTEM, Project
from headgate.tenancy.store import Page, Store
from tests.tenancy.office import Office, run

MINUTE = Policy(limits=(Limit(unit="requests", amount=60),))
DAILY = Policy(budgets=(Budget(amount=5.0, per="day"),))


def refusal(office: Office, key: str) -> str | None:
    """The code of the error that a key gets; None where it opens."""
    try:
        office.auth.check(key, "inference")
    except (Unauthorized, Overloaded) as error:
        return error.code
    return None


def test_a_tenant_without_a_project_gets_one_and_a_mistyped_id_does_not(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        for tenant in ("acme", "日本語 ☂", "a/b", "acme"):
            created = await office.keys.create(KeySpec(tenant=tenant))
            assert office.principal(created.key).tenant == tenant
        listed = {project.id for project in await office.tenancy.projects.page(Page())}
        assert listed == {"default", "acme", "日本語 ☂", "a/b"}
        with pytest.raises(BadCall, match="proj_typo"):
            await office.keys.create(KeySpec(tenant="proj_typo"))
        await office.tenancy.projects.archive("acme", CLI)
        with pytest.raises(BadCall, match="archived") as refused:
            await office.keys.create(KeySpec(tenant="acme"))
        assert refused.value.param == "tenant", "the field that the caller sent"
        made = await office.tenancy.projects.create("acme", CLI)
        assert made.id.startswith("proj_")

    run(sql_url, main)


def test_policies_of_all_levels_are_on_the_principal_and_empty_ones_are_not(sql_url: str) -> None:
    async def main(office: Office, other: Office) -> None:
        tenancy = office.tenancy
        user = await tenancy.users.create("ada@example.com", "reader", CLI)
        key = await office.keys.create(KeySpec(tenant="acme", user_id=user.id, policy=DAILY))
        plain = await office.keys.create(KeySpec(tenant="acme"))
        assert [rule.level for rule in office.principal(key.key).policies] == ["key"]
        assert office.principal(plain.key).policies == ()
        await tenancy.policies.put(Owner("organization"), MINUTE, CLI)
        await tenancy.policies.put(Owner("project", "acme"), DAILY, CLI)
        await tenancy.policies.put(Owner("user", user.id), MINUTE, CLI)
        await other.keys.refresh()
        for place in (office, other):
            rules = place.principal(key.key).policies
            assert [(rule.level, rule.id) for rule in rules] == [
                ("organization", "default"), ("project", "acme"), ("user", user.id), ("key", key.record.id),
            ]  # fmt: skip
            assert [rule.policy for rule in rules] == [MINUTE, DAILY, MINUTE, DAILY]
        await tenancy.policies.put(Owner("project", "acme"), Policy(), CLI)
        assert [rule.level for rule in office.principal(plain.key).policies] == ["organization"]

    run(sql_url, main)


def test_what_did_not_change_stays_the_same_object_through_every_snapshot(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        await office.tenancy.policies.put(Owner("organization"), MINUTE, CLI)
        keys = [await office.keys.create(KeySpec(tenant="acme")) for _ in range(3)]
        before = [office.principal(key.key) for key in keys]
        assert before[0].policies is before[1].policies
        await office.keys.create(KeySpec(tenant="other"))
        await office.keys.revoke(keys[2].record.id)
        assert [office.principal(key.key) for key in keys[:2]] == before[:2]
        assert all(office.principal(key.key) is old for key, old in zip(keys[:2], before, strict=False))
        await office.tenancy.policies.put(Owner("project", "acme"), DAILY, CLI)
        after = [office.principal(key.key) for key in keys[:2]]
        assert after[0].policies[0] is before[0].policies[0]
        assert after[0].policies is after[1].policies

    run(sql_url, main)


def test_keys_end_with_project_user_membership_and_account_each_with_its_code(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        tenancy = office.tenancy
        project = await tenancy.projects.create("search", CLI)
        user = await tenancy.users.create("Ada@Example.com", "reader", CLI, projects=[(project.id, "member")])
        personal = (await office.keys.create(KeySpec(tenant=project.id, user_id=user.id))).key
        account = await tenancy.accounts.create(project.id, "robot", CLI)
        machine = (await office.keys.create_for(account.id, project.id, KeySpec(), CLI)).key
        await tenancy.projects.remove_member(project.id, user.id, CLI)
        assert (refusal(office, personal), refusal(office, machine)) == ("not_a_member", None)
        await tenancy.projects.set_member(project.id, "ADA@example.com", "owner", CLI)
        assert refusal(office, personal) is None
        await tenancy.accounts.remove(project.id, account.id, CLI)
        assert refusal(office, machine) == "invalid_api_key"
        await tenancy.users.remove(user.id, CLI)
        assert refusal(office, personal) == "user_removed"
        again = await tenancy.users.create("ada@example.com", "reader", CLI, projects=[(project.id, "member")])
        assert again.id != user.id
        assert refusal(office, personal) == "user_removed"
        fresh = (await office.keys.create(KeySpec(tenant=project.id, user_id=again.id))).key
        await tenancy.projects.archive(project.id, CLI)
        await tenancy.projects.archive(project.id, CLI)
        assert refusal(office, fresh) == "project_archived"
        for change in (
            office.keys.create(KeySpec(tenant=project.id)),
            tenancy.policies.put(Owner("project", project.id), MINUTE, CLI),
            tenancy.projects.rename(project.id, "x", CLI),
        ):
            with pytest.raises(BadCall):
                await change
        with pytest.raises(Conflict):
            await tenancy.projects.archive("default", CLI)
        with pytest.raises(NotFound):
            await tenancy.projects.archive("nobody", CLI)
        with pytest.raises(Conflict):
            await tenancy.users.create("ADA@EXAMPLE.COM", "owner", CLI)

    run(sql_url, main)


def test_edits_made_at_once_by_several_processes_are_all_kept(sql_url: str) -> None:
    async def main(here: Office, there: Office) -> None:
        def edit(number: int) -> Any:
            return lambda policy: edits.with_amount(policy, "requests", "minute", f"model-{number}", number + 1)

        await asyncio.gather(*(
            (here, there)[number % 2].tenancy.policies.edit(
                Owner("project", "default"), "rate_limit.updated", edit(number), CLI
            )
            for number in range(16)
        ))  # fmt: skip
        policy = await here.tenancy.policies.get(Owner("project", "default"))
        assert {limit.model: limit.amount for limit in policy.limits} == {f"model-{n}": n + 1 for n in range(16)}

    run(sql_url, main)


def test_a_stop_blocks_until_its_time_or_its_release(sql_url: str) -> None:
    async def main(office: Office, other: Office) -> None:
        key = (await office.keys.create(KeySpec(tenant="acme"))).key
        free = (await office.keys.create(KeySpec(tenant="calm"))).key
        stops = office.tenancy.stops
        await stops.stop("acme", "Ten times its usual spend.", office.clock.now() + 60)
        assert "Ten times its usual spend." in (office.principal(key).blocked or "")
        assert office.principal(free).blocked is None
        await other.keys.refresh()
        assert other.principal(key).blocked
        office.clock.jump(61)  # both offices share the clock: nothing changes in SQL, and the stop is over
        for place in (office, other):
            await place.keys.refresh()
            assert place.principal(key).blocked is None
        await stops.stop("acme", "Again.", office.clock.now() + 60)
        await stops.stop("acme", "And longer.", office.clock.now() + 600)
        assert [stop.reason for stop in await stops.all()] == ["And longer."]
        await stops.release("acme", CLI)
        assert office.principal(key).blocked is None
        with pytest.raises(NotFound):
            await stops.release("acme", CLI)
        for reason, until, param in (("", 1e10, "reason"), ("x", 5.0, "until"), ("x", float("nan"), "until")):
            with pytest.raises(BadCall) as refused:
                await stops.stop("acme", reason, until)
            assert refused.value.param == param
        with pytest.raises(NotFound):
            await stops.stop("nobody", "x", office.clock.now() + 5)

    run(sql_url, main)


@pytest.mark.parametrize("until", [1.0, float("nan"), float("inf"), 1e12, 1e308])
def test_a_stop_until_a_time_that_no_calendar_shows_is_refused(tmp_path: Path, until: float) -> None:
    async def main(office: Office, other: Office) -> None:
        with pytest.raises(BadCall) as refused:
            await office.tenancy.stops.stop("default", "A leak.", until)
        assert refused.value.param == "until"
        await office.tenancy.stops.stop("default", "A leak.", TIME_MAX)
        assert (await office.keys.create(KeySpec())).key
        await other.keys.refresh()

    run(f"sqlite:///{tmp_path}/state.db", main)


def test_while_sql_is_away_an_unknown_key_is_told_so_and_a_known_one_goes_on(sql_url: str) -> None:
    async def main(office: Office, other: Office) -> None:
        known = (await office.keys.create(KeySpec())).key
        revoked = await office.keys.create(KeySpec(tenant="gone"))
        await office.tenancy.projects.archive("gone", CLI)

        class Away(Store):
            async def version(self, timeout_s: float | None = None) -> int:
                raise Overloaded("away")

        there = office.keys._snapshots._store
        office.keys._snapshots._store = Away(office.store._sql)
        watch = asyncio.create_task(office.keys.watch(random.Random(2)))
        await office.clock.advance(1.0)
        late = (await other.keys.create(KeySpec())).key
        answers = [refusal(office, key) for key in (known, late, "hg-guess", revoked.key)]
        assert answers == [None, "keys_unavailable", "keys_unavailable", "project_archived"]
        office.keys._snapshots._store = there
        async with asyncio.timeout(10):
            while refusal(office, late) is not None:
                await office.clock.advance(0.3)
        assert refusal(office, "hg-guess") == "invalid_api_key"
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    run(sql_url, main)


def test_a_change_is_reported_done_even_if_sql_goes_away_right_after_it(sql_url: str) -> None:
    async def main(office: Office, other: Office) -> None:
        class Away(Store):
            async def version(self, timeout_s: float | None = None) -> int:
                raise Overloaded("away")

        office.keys._snapshots._store = Away(office.store._sql)
        created = await office.keys.create(KeySpec())
        assert created.key
        await other.keys.refresh()
        assert refusal(other, created.key) is None

    run(sql_url, main)


def test_keys_of_before_become_keys_of_projects(sql_url: str) -> None:
    """Migration 0003 on a database that 0001 and 0002 made."""
    old = {"hash": "h", "prefix": "hg-1", "name": "old", "scopes": '["inference"]', "created_at": 1_600_000_000.0}

    def before(db: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["connection"] = db
        command.upgrade(config, "0002")
        for number, tenant in enumerate(("acme", "default", "acme", "ünï")):
            columns = {**old, "id": f"key_{number}", "hash": f"h{number}", "tenant": tenant}
            cast = ", ".join(f"CAST(:{name} AS JSONB)" if name == "scopes" and db.dialect.name == "postgresql"
                             else f":{name}" for name in columns)  # fmt: skip
            db.execute(sa.text(f"INSERT INTO keys ({', '.join(columns)}) VALUES ({cast})"), columns)

    async def main() -> None:
        sql = await asyncio.to_thread(opening._connect, sql_url, 10.0)
        await sql.run(before)
        await sql.aclose()
        sql = await open_sql(sql_url)
        try:
            store = Store(sql)
            keys = [key for key, _ in await store.keys()]
            assert {(key.tenant, key.kind, key.user_id) for key in keys} == {
                ("acme", "project", None), ("default", "project", None), ("ünï", "project", None),
            }  # fmt: skip
            projects = await store.look(lambda books: books.find(Project))
            assert {(project.id, project.name) for project in projects} == {
                ("acme", "acme"), ("default", "default"), ("ünï", "ünï"),
            }  # fmt: skip
            rows = await store.rows(0.0, -1, lambda rows: rows)
            assert len(rows.keys) == 4
        finally:
            await sql.aclose()

    asyncio.run(main())


def test_every_list_is_walked_whole_however_many_were_made_in_one_moment(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        for number in range(9):
            await office.tenancy.projects.create(f"p{number}", SYSTEM)
            if number % 4 == 3:
                office.clock.jump(1)
        everything = [project.id for project in await office.tenancy.projects.page(Page(limit=100))]
        assert len(everything) == 10
        for newest_first in (True, False):
            wanted = everything if newest_first else everything[::-1]
            walked: list[str] = []
            after: str | None = None
            while True:
                found = await office.tenancy.projects.page(Page(3, after, None, newest_first))
                walked += [project.id for project in found[:3]]
                if len(found) <= 3:
                    break
                after = walked[-1]
            assert walked == wanted
            back = await office.tenancy.projects.page(Page(3, None, wanted[5], newest_first))
            assert [project.id for project in back[:3]] == wanted[2:5]
        with pytest.raises(BadCall):
            await office.tenancy.projects.page(Page(after="nobody"))

    run(sql_url, main)


def test_members_are_taken_out_page_by_page_while_the_list_is_walked(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        tenancy, after, gone = office.tenancy, None, 0
        for number in range(7):
            await tenancy.users.create(f"{number}@example.com", "reader", CLI, projects=[("default", "member")])
        while found := await tenancy.projects.members("default", Page(2, after)):
            for _member, user in found[:2]:
                await tenancy.projects.remove_member("default", user.id, CLI)
                after, gone = user.id, gone + 1
        assert gone == 7

    run(sql_url, main)


def test_a_policy_that_this_version_cannot_read_is_said_and_the_last_snapshot_serves_on(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        key = (await office.keys.create(KeySpec())).key
        spoil = sa.update(tables.projects).values(policy={"of_a_later_version": 1})
        await office.store._sql.run(lambda db: db.execute(spoil))
        office.keys._snapshots.table = KeyTable(-1, office.auth.table.by_hash)
        await office.keys._snapshots.follow()
        assert refusal(office, key) is None
        assert office.auth.table.stale
        assert "of_a_later_version" in "".join(office.lines)

    run(sql_url, main)
