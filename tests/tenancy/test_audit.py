"""The log of every change: written with the change or not at all, and never changed afterwards."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from headgate.core.errors import BadCall, HeadgateError
from headgate.core.policy import Limit, Policy
from headgate.storage.sql import tables_tenancy as tables
from headgate.tenancy.desk import Change
from headgate.tenancy.keyring import KeySpec
from headgate.tenancy.policies import Owner
from headgate.tenancy.records import Actor, Entry, Project
from headgate.tenancy.store import Page
from headgate.tenancy.tenancy import AuditFilter
from tests.tenancy.office import Office, run

ADMIN = Actor("key_admin", "user_boss", "192.0.2.7")
FIVE = Policy(limits=(Limit(unit="tokens", amount=5),))
LOG = tables.audit
ATTEMPTS = (
    "UPDATE audit_log SET actor = 'nobody'",
    "UPDATE audit_log SET after = NULL WHERE id = '{id}'",
    "DELETE FROM audit_log",
    "DELETE FROM audit_log WHERE id = '{id}'",
    "INSERT INTO audit_log (id, type, at, actor, target) VALUES ('{id}', 'x', 1, 'x', 'x') "
    "ON CONFLICT (id) DO UPDATE SET actor = 'x'",
)
OWN_WAYS = {
    "sqlite": "INSERT OR REPLACE INTO audit_log (id, type, at, actor, target) VALUES ('{id}', 'x', 1, 'x', 'x')",
    "postgresql": "TRUNCATE audit_log",
}


def execute(statement: sa.TextClause, db: sa.Connection) -> None:
    db.execute(statement)


async def entries(office: Office, **wanted: Any) -> list[Entry]:
    return await office.tenancy.audit.page(Page(limit=100), AuditFilter(**wanted))


def test_no_statement_changes_or_removes_a_line(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        await office.tenancy.projects.create("logged", ADMIN)
        before = await entries(office)
        sql = office.store._sql
        for attempt in (*ATTEMPTS, OWN_WAYS[sql.dialect]):
            statement = sa.text(attempt.format(id=before[0].id))
            with pytest.raises((sa.exc.SQLAlchemyError, HeadgateError), match="append-only"):
                await sql.run(partial(execute, statement))
        assert await entries(office) == before

    run(sql_url, main)


def test_a_change_that_fails_leaves_neither_itself_nor_a_line(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        before = await entries(office)

        def work(change: Change) -> None:
            project = Project("half", "half", change.now)
            change.books.put(project)
            change.note("project.created", "half", "half", None, project)
            raise LookupError("changed my mind")

        with pytest.raises(LookupError):
            await office.keys.desk.change(ADMIN, work)
        with pytest.raises(HeadgateError):
            await office.keys.create(KeySpec(tenant="new", user_id="user_nobody"), by=ADMIN)
        assert await entries(office) == before
        assert await office.store.look(lambda books: books.get(Project, "half")) is None
        assert await office.store.look(lambda books: books.get(Project, "new")) is None

    run(sql_url, main)


def test_every_kind_of_change_is_logged_with_who_from_where_and_what(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        tenancy, secrets = office.tenancy, []
        project = await tenancy.projects.create("p", ADMIN)
        await tenancy.projects.rename(project.id, "q", ADMIN)
        user = await tenancy.users.create("ada@example.com", "reader", ADMIN, projects=[(project.id, "member")])
        await tenancy.users.update(user.id, ADMIN, "owner")
        await tenancy.projects.set_member(project.id, user.id, "owner", ADMIN)
        created = await office.keys.create(KeySpec(tenant=project.id, user_id=user.id), by=ADMIN)
        secrets.append(created.key)
        account = await tenancy.accounts.create(project.id, "robot", ADMIN)
        secrets.append((await office.keys.create_for(account.id, project.id, KeySpec(), ADMIN)).key)
        await tenancy.accounts.update(project.id, account.id, "R2", None, ADMIN)
        await tenancy.policies.put(
            Owner("project", project.id), Policy(limits=(Limit(unit="tokens", amount=5),)), ADMIN
        )
        await tenancy.alerts.put(Owner("organization"), 500, ("a@example.com",), None, ADMIN, new=True)
        await tenancy.alerts.remove(Owner("organization"), ADMIN)
        await tenancy.stops.stop(project.id, "Too fast.", office.clock.now() + 60, ADMIN)
        await tenancy.stops.release(project.id, ADMIN)
        await office.keys.revoke(created.record.id, ADMIN)
        await tenancy.accounts.remove(project.id, account.id, ADMIN)
        await tenancy.projects.remove_member(project.id, user.id, ADMIN)
        await tenancy.users.remove(user.id, ADMIN)
        await tenancy.projects.archive(project.id, ADMIN)
        found = await entries(office)
        assert sorted(entry.type for entry in found) == sorted([
            "project.created", "project.updated", "user.added", "project.user.added", "user.updated",
            "project.user.updated", "api_key.created", "service_account.created", "api_key.created",
            "service_account.updated", "policy.updated", "spend_alert.created", "spend_alert.deleted",
            "spend_stop.created", "spend_stop.released", "api_key.deleted", "api_key.deleted",
            "service_account.deleted", "project.user.deleted", "user.deleted", "project.archived",
        ])  # fmt: skip
        assert {(entry.actor, entry.actor_user, entry.address) for entry in found} == {
            ("key_admin", "user_boss", "192.0.2.7")
        }
        renamed = next(entry for entry in found if entry.type == "project.updated")
        assert (renamed.before, renamed.after, renamed.target) == ({"name": "p"}, {"name": "q"}, project.id)
        rows = await office.store._sql.read(lambda db: [dict(row) for row in db.execute(sa.select(LOG)).mappings()])
        text = json.dumps(rows)
        assert not [secret for secret in secrets if secret[:11] in text]

    run(sql_url, main)


def test_what_was_taken_away_is_in_the_log(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        owner = Owner("project", "default")
        await office.tenancy.policies.put(owner, Policy(models=("one",), weight=2.0, limits=FIVE.limits), ADMIN)
        await office.tenancy.policies.put(owner, Policy(models=("one",)), ADMIN)
        taken = (await entries(office, types=("policy.updated",)))[0]
        assert taken.before == {"weight": 2.0, "limits": [{"unit": "tokens", "amount": 5}]}
        assert taken.after == {}

    run(sql_url, main)


def test_what_changes_nothing_is_no_news(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        owner = Owner("project", "default")
        await office.tenancy.policies.put(owner, FIVE, ADMIN)
        created = await office.keys.create(KeySpec())
        await office.keys.revoke(created.record.id, ADMIN)
        project = await office.tenancy.projects.create("p", ADMIN)
        user = await office.tenancy.users.create("ada@example.com", "reader", ADMIN, projects=[(project.id, "member")])
        account = await office.tenancy.accounts.create(project.id, "robot", ADMIN)
        known = len(await entries(office))
        await office.tenancy.projects.rename(project.id, "p", ADMIN)
        await office.tenancy.users.update(user.id, ADMIN, None)
        await office.tenancy.projects.set_member(project.id, user.id, "member", ADMIN)
        await office.tenancy.accounts.update(project.id, account.id, None, None, ADMIN)
        await office.tenancy.policies.put(owner, FIVE, ADMIN)
        await office.keys.revoke(created.record.id, ADMIN)
        assert len(await entries(office)) == known

    run(sql_url, main)


def test_the_bootstrap_key_registered_anew_keeps_its_policy_and_only_what_differs_is_news(sql_url: str) -> None:
    async def main(office: Office, other: Office) -> None:
        async def start(key: str) -> list[str]:
            """What a start writes, and leaves as it was."""
            known = len(await entries(office))
            office.clock.jump(10)
            await office.keys.create(KeySpec(), key, "key_bootstrap")
            assert office.principal(key).policies[0].policy == FIVE
            return [entry.type for entry in (await entries(office))[:-known]]

        await office.keys.create(KeySpec(), "hg-the-bootstrap-key", "key_bootstrap")
        await office.tenancy.policies.put(Owner("key", "key_bootstrap"), FIVE, ADMIN)
        assert await start("hg-the-bootstrap-key") == []
        await office.keys.revoke("key_bootstrap", ADMIN)
        assert await start("hg-the-bootstrap-key") == ["api_key.updated"], "it works again"
        assert await start("hg-the-bootstrap-next") == ["api_key.created"]

    run(sql_url, main)


def test_the_log_is_filtered_by_each_of_its_fields(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        boss = await office.tenancy.users.create("boss@example.com", "owner", ADMIN)
        first = await office.tenancy.projects.create("one", Actor("key_a", boss.id))
        office.clock.jump(100)
        await office.tenancy.projects.create("two", Actor("key_b"))
        only = {
            "types": ("project.created",), "projects": (first.id,), "targets": (first.id,), "actors": ("key_a",),
            "emails": ("BOSS@example.com",),
        }  # fmt: skip
        for name, values in only.items():
            found = await entries(office, **{name: values})
            assert first.id in {entry.target for entry in found}
            assert len(found) == (2 if name == "types" else 1)
        assert len(await entries(office, actors=(boss.id,))) == 1
        with pytest.raises(BadCall):
            await entries(office, actors=(boss.id, "key_a"))
        late = await entries(office, times=(("at", ">", office.clock.now() - 50),))
        assert [entry.actor for entry in late] == ["key_b"]
        assert await entries(office, actors=("a\x00b", "\ud800")) == []

    run(sql_url, main)


def test_two_processes_write_it_at_once_without_losing_a_line(sql_url: str) -> None:
    async def main(here: Office, there: Office) -> None:
        await asyncio.gather(*(
            (here, there)[number % 2].tenancy.projects.create(f"p{number}", ADMIN) for number in range(20)
        ))  # fmt: skip
        assert len(await entries(here, types=("project.created",))) == 20

    run(sql_url, main)
