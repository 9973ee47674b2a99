"""Keys: made once, shown once, revoked at once, followed by other processes."""

import asyncio
import random
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.core.errors import BadCall, Forbidden, NotFound, Overloaded
from headgate.core.policy import Policy, Velocity
from headgate.core.principal import KeyLimits, KeyTable, Scope
from headgate.tenancy.keyring import KeySpec
from headgate.tenancy.keys import PREFIX, VISIBLE_LENGTH
from headgate.tenancy.store import Rows, Store
from tests.tenancy.office import Office, run

T = TypeVar("T")


async def until(office: Office, check: Callable[[], bool]) -> None:
    """Polls, on the office's own clock."""
    async with asyncio.timeout(10):
        while not check():
            await office.clock.advance(0.7)


def test_a_new_key_opens_at_once_and_only_its_prefix_is_kept(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        created = await office.keys.create(KeySpec(name="app", tenant="acme", models=("gpt-*",)))
        assert created.key.startswith(PREFIX)
        assert created.record.prefix == created.key[:VISIBLE_LENGTH]
        principal = office.auth.check(created.key, "inference", "gpt-4o")
        assert (principal.tenant, principal.name, principal.key_id) == ("acme", "app", created.record.id)
        (listed,) = await office.keys.list()
        assert listed == created.record
        rows = await office.store.keys()
        assert created.key[VISIBLE_LENGTH:] not in repr(rows)

    run(sql_url, main)


def test_revoking_is_effective_when_it_returns_and_twice_is_once(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        created = await office.keys.create(KeySpec())
        first = await office.keys.revoke(created.record.id)
        assert not office.opens(created.key)
        office.clock.jump(5)
        again = await office.keys.revoke(created.record.id)
        assert again.revoked_at == first.revoked_at
        assert (await office.keys.list())[0].revoked_at == first.revoked_at

    run(sql_url, main)


def test_a_refresh_in_progress_cannot_bring_a_revoked_key_back(sql_url: str) -> None:
    """The race: it reads the rows, the key is revoked and published, then it publishes what it read."""

    async def main(office: Office, _: Office) -> None:
        read, go = asyncio.Event(), asyncio.Event()

        class Slow(Store):
            async def rows(self, now: float, since: int, make: Callable[[Rows], T]) -> T:
                rows = await super().rows(now, since, make)
                if not read.is_set():
                    read.set()
                    await go.wait()
                return rows

        created = await office.keys.create(KeySpec())
        office.keys._snapshots._store = Slow(office.store._sql)
        office.keys._snapshots.table = KeyTable(-1, {})
        refresh = asyncio.create_task(office.keys.refresh())
        await read.wait()
        revoke = asyncio.create_task(office.keys.revoke(created.record.id))
        await asyncio.sleep(0.05)
        go.set()
        await asyncio.gather(refresh, revoke)
        assert not office.opens(created.key)

    run(sql_url, main)


def test_another_process_follows_within_its_poll(sql_url: str) -> None:
    async def main(here: Office, there: Office) -> None:
        watch = asyncio.create_task(there.keys.watch(random.Random(2)))
        created = await here.keys.create(KeySpec())
        await until(there, lambda: there.opens(created.key))
        await here.keys.revoke(created.record.id)
        await until(there, lambda: not there.opens(created.key))
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    run(sql_url, main)


def test_while_sql_is_away_known_keys_open_and_it_is_said_once(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        class Away(Store):
            async def version(self, timeout_s: float | None = None) -> int:
                raise Overloaded("away")

        created = await office.keys.create(KeySpec())
        office.keys._snapshots._store = Away(office.store._sql)
        watch = asyncio.create_task(office.keys.watch(random.Random(2)))
        for _turn in range(10):
            await office.clock.advance(0.7)
        assert office.opens(created.key)
        assert len([line for line in office.lines if "keys.stale" in line]) == 1
        assert not watch.done()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    run(sql_url, main)


def test_a_table_that_is_gone_for_a_while_does_not_end_the_watch(sql_url: str) -> None:
    async def main(here: Office, there: Office) -> None:
        async def run(statement: str) -> None:
            await here.store._sql.run(lambda db: db.execute(sa.text(statement)))

        created = await here.keys.create(KeySpec())
        watch = asyncio.create_task(there.keys.watch(random.Random(2)))
        await until(there, lambda: there.opens(created.key))
        await run("ALTER TABLE versions RENAME TO away")  # as while a backup is being put back
        await until(there, lambda: there.auth.table.stale)
        await run("ALTER TABLE away RENAME TO versions")
        await here.keys.revoke(created.record.id)
        await until(there, lambda: not there.opens(created.key))
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)

    run(sql_url, main)


def test_a_given_key_replaces_the_one_of_its_id_even_if_it_was_another_before(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        spec = KeySpec(name="bootstrap", scopes=("inference", "admin"))
        await office.keys.create(spec, "hg-first-bootstrap", "key_bootstrap")
        await office.keys.create(spec, "hg-second-bootstrap", "key_bootstrap")
        assert not office.opens("hg-first-bootstrap")
        assert office.opens("hg-second-bootstrap")
        made = await office.keys.create(KeySpec(name="was made here"))
        await office.keys.create(spec, made.key, "key_bootstrap")
        assert [record.id for record in await office.keys.list()] == ["key_bootstrap"]
        assert office.auth.check(made.key, "admin").key_id == "key_bootstrap"

    run(sql_url, main)


def test_replicas_that_register_one_bootstrap_key_together_do_not_collide(sql_url: str) -> None:
    async def main(here: Office, there: Office) -> None:
        spec = KeySpec(name="bootstrap")
        await asyncio.gather(
            *(office.keys.create(spec, "hg-the-bootstrap-key", "key_b") for office in [here, there] * 4)
        )
        assert len(await here.keys.list()) == 1

    run(sql_url, main)


def test_an_unknown_id_is_not_found(sql_url: str) -> None:
    async def main(office: Office, _: Office) -> None:
        with pytest.raises(NotFound, match="key_nobody"):
            await office.keys.revoke("key_nobody")

    run(sql_url, main)


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        (KeySpec(scopes=()), "scopes"), (KeySpec(tenant=""), "tenant"), (KeySpec(tenant="a\nb"), "tenant"),
        (KeySpec(tenant="  "), "tenant"), (KeySpec(policy=Policy(velocity=Velocity())), "policy.velocity"),
        (KeySpec(tenant="t" * 101), "tenant"), (KeySpec(name="n" * 201), "name"), (KeySpec(name="a\x00"), "name"),
        (KeySpec(models=("",)), "models"), (KeySpec(models=("m",) * 101), "models"),
        (KeySpec(models=("\x00",)), "models"),
        (KeySpec(expires_at=5.0), "expires_at"), (KeySpec(expires_at=1e18), "expires_at"),
        (KeySpec(expires_at=float("nan")), "expires_at"),
        (KeySpec(limits=KeyLimits(concurrency=0)), "limits.concurrency"),
        (KeySpec(limits=KeyLimits(tokens_per_minute=10**400)), "limits.tokens_per_minute"),
    ],
)  # fmt: skip
def test_a_key_nobody_could_use_or_show_is_refused_by_its_field(tmp_path: Any, spec: KeySpec, param: str) -> None:
    async def main(office: Office, _: Office) -> None:
        with pytest.raises(BadCall) as refused:
            await office.keys.create(spec)
        assert refused.value.param == param
        assert await office.keys.list() == []

    run(f"sqlite:///{tmp_path}/keys.db", main)


SCOPES: tuple[Scope, ...] = ("inference", "admin")
specs = st.builds(
    KeySpec,
    name=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=5),
    tenant=st.sampled_from(["a", "b", "ü"]),
    scopes=st.lists(st.sampled_from(["inference", "admin"]), min_size=1, max_size=2, unique=True).map(tuple),
    models=st.none() | st.lists(st.sampled_from(["m", "gpt-*", "?", "x/y"]), max_size=3).map(tuple),
    expires_at=st.none() | st.floats(1_700_000_001, 1_800_000_000),
    limits=st.builds(KeyLimits, st.none() | st.integers(1, 10**12), st.none() | st.integers(1, 9), st.none()),
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(specs, min_size=6, max_size=6))
def test_what_a_key_may_is_what_was_asked_for_and_never_more(tmp_path: Any, asked: list[KeySpec]) -> None:
    async def main(office: Office, other: Office) -> None:
        for spec in asked:
            await one(spec, office, other)

    async def one(spec: KeySpec, office: Office, other: Office) -> None:
        created = await office.keys.create(spec)
        await other.keys.refresh()  # through SQL and back
        principal = other.auth.table.by_hash[next(h for r, h in await other.store.keys() if r.id == created.record.id)]
        assert principal.scopes == set(spec.scopes)
        assert (principal.tenant, principal.models, principal.limits) == (spec.tenant, spec.models, spec.limits)
        assert principal.expires_at == spec.expires_at
        lacking: list[Scope] = [scope for scope in SCOPES if scope not in spec.scopes]
        for scope in lacking:
            with pytest.raises(Forbidden):
                other.auth.check(created.key, scope)

    run(f"sqlite:///{tmp_path}/keys.db", main)
