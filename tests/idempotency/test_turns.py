"""What the database promises about keys in use, on both kinds."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from headgate.core.call import Call
from headgate.core.deadline import Deadline
from headgate.core.errors import Conflict, Overloaded
from headgate.core.request import ChatRequest
from headgate.ledger.idempotency.ask import Ask, IdempotencySettings, Kept, make_ask
from headgate.ledger.idempotency.store import SWEEP_ROWS, Store
from headgate.ledger.idempotency.turns import BEAT_S, LEASE_S, SWEEP_S, SWEEPS_MAX, Turns
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.storage.sql.tables_idempotency import idempotency
from headgate.telemetry.log import Log
from tests.clock import VirtualClock

ASK = Ask("slot", "print", 60.0)
OTHER_BODY = Ask("slot", "another print", 60.0)
KEPT = Kept(((b"x-headgate-backend", b"up"), (b"x-upstream-request-id", b"\xff")), b"data: 1\n\n\x00\xff")
KEEP_S = 3_600.0


class Fleet:
    """Several instances on one database and one clock."""

    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.clock = VirtualClock()

    def instance(self, name: str, boot: str = "1") -> Turns:
        settings = IdempotencySettings(keep_s=KEEP_S)
        return Turns(Store(self.sql, name, boot), settings, self.clock, Log(self.clock, "info", io.StringIO().write))

    async def rows(self) -> int:
        count = sa.select(sa.func.count()).select_from(idempotency)
        return await self.sql.read(lambda db: int(db.execute(count).scalar() or 0))


@asynccontextmanager
async def fleet(url: str) -> AsyncIterator[Fleet]:
    sql = await open_sql(url)
    try:
        yield Fleet(sql)
    finally:
        await sql.aclose()


async def code_of(turns: Turns, ask: Ask) -> str | None:
    with pytest.raises(Conflict) as caught:
        await turns.take(ask)
    with pytest.raises(Conflict) as again:
        await turns.look(ask)
    assert caught.value.code == again.value.code
    return caught.value.code


def test_of_many_that_ask_at_once_one_runs_the_call(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            found = await asyncio.gather(*(house.instance(f"i{n}").take(ASK) for n in range(16)))
            assert sorted(str(one) for one in found) == [*["elsewhere"] * 15, "mine"]

    asyncio.run(main())


def test_a_finished_answer_comes_back_byte_for_byte_and_a_reused_key_is_a_conflict(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            one, two = house.instance("one"), house.instance("two")
            assert await one.take(ASK) == "mine"
            assert await code_of(two, OTHER_BODY) == "idempotency_key_reused"
            assert await two.look(ASK) == "elsewhere"
            await one.finish(ASK, KEPT)
            for turns in (one, two, house.instance("one", "2")):
                assert await turns.take(ASK) == KEPT
                assert await turns.look(ASK) == KEPT
                assert await code_of(turns, OTHER_BODY) == "idempotency_key_reused"

    asyncio.run(main())


def test_a_released_key_runs_anew(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            one, two = house.instance("one"), house.instance("two")
            await one.take(ASK)
            await one.release(ASK)
            assert await two.look(ASK) == "gone"
            assert await two.take(OTHER_BODY) == "mine"
            await one.release(ASK)  # late, and no longer its own
            await one.finish(ASK, KEPT)
            assert await one.look(OTHER_BODY) == "elsewhere"

    asyncio.run(main())


def test_an_answer_that_was_too_large_says_so(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            one = house.instance("one")
            await one.take(ASK)
            await one.finish(ASK, Kept((), None))
            assert await code_of(house.instance("two"), ASK) == "idempotency_too_large"

    asyncio.run(main())


def test_while_its_owner_lives_a_call_is_waited_for_and_then_nobody_runs_it_again(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            one, two = house.instance("one"), house.instance("two")
            await one.take(ASK)
            beats = asyncio.create_task(one.run())
            for _ in range(10):
                await house.clock.advance(BEAT_S)
                await asyncio.sleep(0.05)  # the beat's transaction is in another thread
            assert await two.look(ASK) == "elsewhere"
            beats.cancel()
            await asyncio.wait({beats})
            house.clock.jump(LEASE_S + 1)
            assert await code_of(two, ASK) == "idempotency_outcome_unknown"
            assert await code_of(two, OTHER_BODY) == "idempotency_key_reused"
            house.clock.jump(KEEP_S - 100)
            assert await code_of(two, ASK) == "idempotency_outcome_unknown"
            await one.finish(ASK, KEPT)  # it had only stood still
            assert await two.take(ASK) == KEPT

    asyncio.run(main())


def test_an_instance_that_started_again_knows_that_its_earlier_self_is_dead(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            await house.instance("one").take(ASK)
            assert await house.instance("two").look(ASK) == "elsewhere"
            assert await code_of(house.instance("one", "2"), ASK) == "idempotency_outcome_unknown"

    asyncio.run(main())


def test_a_claim_whose_confirmation_was_lost_can_be_taken_again_by_the_same_process_only(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            one = house.instance("one")
            await one.take(ASK)
            assert await house.instance("two").take(ASK) == "elsewhere"
            assert await one.take(ASK) == "mine"

    asyncio.run(main())


def test_answers_are_kept_for_their_time_and_then_swept(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            turns = house.instance("one")
            many = [Ask(f"slot {n}", "print", 60.0) for n in range(SWEEP_ROWS + 20)]
            for ask in many:
                await turns.take(ask)
                await turns.finish(ask, KEPT)
            house.clock.jump(KEEP_S - 1)
            await turns.take(ASK)
            assert await turns.look(many[0]) == KEPT
            house.clock.jump(2)
            assert await turns.look(many[0]) == "gone"
            assert await turns.take(Ask("slot 0", "another print", 60.0)) == "mine"
            sweeping = asyncio.create_task(turns.run())
            await house.clock.settle()
            end = asyncio.get_running_loop().time() + 20
            while await house.rows() > 2:
                assert asyncio.get_running_loop().time() < end
                await house.clock.advance(SWEEP_S)
            sweeping.cancel()
            await asyncio.wait({sweeping})

    asyncio.run(main())


def test_a_sweep_that_has_more_to_do_goes_on_at_the_next_beat(tmp_path: Path) -> None:
    """Else rows would come faster than they go, once a process sees a hundred keys a second."""
    left = 30
    row = {"fingerprint": "print", "state": "done", "owner": "one/1", "lease": 0.0, "expires": 1.0}
    rows = [{"slot": str(n), **row} for n in range(SWEEP_ROWS * SWEEPS_MAX + left)]

    async def main() -> None:
        async with fleet(f"sqlite:///{tmp_path}/state.db") as house:
            await house.sql.run(lambda db: db.execute(sa.insert(idempotency), rows).close())
            sweeping = asyncio.create_task(house.instance("one").run())
            await house.clock.settle()
            await house.clock.advance(SWEEP_S + BEAT_S)
            async with asyncio.timeout(30):
                while await house.rows() > left:
                    await asyncio.sleep(0.02)
            begun = house.clock.monotonic()
            async with asyncio.timeout(30):
                while await house.rows():
                    await house.clock.advance(0.5)
            assert house.clock.monotonic() - begun < SWEEP_S / 2
            sweeping.cancel()
            await asyncio.wait({sweeping})

    asyncio.run(main())


def test_without_the_database_nothing_is_claimed(sql_url: str) -> None:
    async def main() -> None:
        async with fleet(sql_url) as house:
            turns = house.instance("one")
            await house.sql.aclose()
            for work in (turns.take(ASK), turns.look(ASK), turns.finish(ASK, KEPT), turns.release(ASK)):
                with pytest.raises(Overloaded):
                    await work

    asyncio.run(main())


def test_neither_the_key_nor_the_prompt_is_in_the_database(tmp_path: Path) -> None:
    call = Call(
        id="req_1", operation="chat", dialect="openai", model="m", raw=b'{"secret prompt": 1}', stream=False,
        body=ChatRequest(model="m", messages=[]), include_usage=False, deadline=Deadline(60.0), received=0.0,
        idempotency_key="secret key",
    )  # fmt: skip

    async def main() -> None:
        async with fleet(f"sqlite:///{tmp_path}/state.db") as house:
            turns = house.instance("one")
            ask = make_ask(call, "secret tenant", 60.0)
            assert ask != make_ask(call, "tenant", 60.0)
            await turns.take(ask)
            await turns.finish(ask, KEPT)

    asyncio.run(main())
    written = b"".join(path.read_bytes() for path in tmp_path.glob("state.db*"))
    assert b"x-headgate-backend" in written
    assert b"secret" not in written
