"""From SQL to brokers: every receipt is an event, at least once, and twice only where something died."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from headgate.core.bus import PUBLISH_SECONDS, Delivery, Message, NatsSettings
from headgate.core.errors import Overloaded
from headgate.ledger.events import BudgetAlert, Event, budget_event, usage_event
from headgate.ledger.outbox import BATCH, LEASE_S, TOLD_MAX, TURN_S, Outbox, Publisher, Sink
from headgate.ledger.store import Store
from headgate.storage.bus.nats import NatsBus
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from tests.brokers import STREAM, Nats, nats_server
from tests.clock import VirtualClock
from tests.ledger.test_journal import names, receipt
from tests.pipeline.spine import until


class Broker:
    """Keeps what it is given; away, or takes only some, when told so. `halt` dies with the batch taken."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.away = False
        self.only = BATCH
        self.batches: list[int] = []

    async def publish(self, messages: Sequence[Message]) -> Delivery:
        if self.away:
            return Delivery(frozenset(), "away")
        some = [message.id for message in messages][: self.only]
        self.batches.append(len(some))
        self.taken += some
        return Delivery(frozenset(some), None if len(some) == len(messages) else "too many")

    async def aclose(self) -> None:
        return


class House:
    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.clock = VirtualClock()
        self.lines: list[str] = []
        self.metrics = Metrics()
        self.store = Store(sql, ("one", "two"), "/headgate/home1")
        self.one, self.two = Broker(), Broker()

    def publisher(self, broker: Broker, who: str = "home1", store: Store | None = None) -> Publisher:
        sink = Sink("one" if broker is self.one else "two", broker)
        log = Log(self.clock, "debug", self.lines.append)
        return Publisher(sink, store or self.store, who, self.clock, random.Random(1), log, self.metrics)

    async def add(self, *numbers: int) -> None:
        await self.store.add_receipts([receipt(number) for number in numbers], "log", 1)

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, self.lines) if line["event"] == name]


@asynccontextmanager
async def house(tmp_path: Path, url: str | None = None) -> AsyncIterator[House]:
    sql = await open_sql(url or f"sqlite:///{tmp_path}/ledger.db")
    try:
        yield House(sql)
    finally:
        await sql.aclose()


def test_a_usage_event_is_a_cloudevent_under_the_receipts_id() -> None:
    event = usage_event(receipt(7, tags={"team": "ü"}, user="u"), "/headgate/home1")
    assert (event.message.id, event.message.key) == ("att_000007", "t")
    body = json.loads(event.message.body)
    assert {name: body[name] for name in ("specversion", "id", "source", "type", "subject", "datacontenttype")} == {
        "specversion": "1.0",
        "id": "att_000007",
        "source": "/headgate/home1",
        "type": "ai.headgate.usage.v1",
        "subject": "t",
        "datacontenttype": "application/json",
    }
    assert body["time"] == "2023-11-14T22:13:27.001Z"
    assert (body["data"]["input_tokens"], body["data"]["output_tokens"], body["data"]["tags"]) == (7, 1, {"team": "ü"})


def test_receipts_that_are_added_are_events_for_every_sink_and_repeats_are_not(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            await gate.add(1, 2, 3)
            await gate.add(2, 3, 4)
            count, oldest = await gate.store.backlog("one")
            assert (count, int(oldest or 0)) == (4, 1_700_000_001)
            await gate.publisher(gate.one).finish(10)
            await gate.add(1, 2, 3, 4)
            await gate.publisher(gate.one).finish(10)
            await gate.publisher(gate.two).finish(10)
            assert gate.one.taken == gate.two.taken == names(1, 2, 3, 4)
            assert await gate.store.backlog("one") == (0, None)

    asyncio.run(main())


def test_many_receipts_in_one_batch_are_all_events(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            await gate.add(*range(2500))
            await gate.publisher(gate.one).finish(60)
            assert gate.one.taken == names(*range(2500))
            assert gate.one.batches == [BATCH] * 5

    asyncio.run(main())


def test_a_transaction_that_fails_leaves_neither_receipts_nor_events(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            with pytest.raises(Exception, match="log"):
                await gate.store.add_receipts([receipt(1)], cast(Any, None), 1)
            assert await gate.store.backlog("one") == (0, None)

    asyncio.run(main())


def test_two_that_claim_at_once_get_different_events(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            await gate.add(*range(60))
            now = gate.clock.now()
            claims = await asyncio.gather(*(gate.store.claim("one", f"home{n}", now, 60.0, 10) for n in range(8)))
            found = [waiting.message.id for claim in claims for waiting in claim]
            assert sorted(found) == names(*range(60))

    asyncio.run(main())


def test_claims_of_the_dead_run_out_and_ones_own_are_taken_up_at_once(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            await gate.add(1, 2)
            now = gate.clock.now()
            assert len(await gate.store.claim("one", "home1", now, LEASE_S, 10)) == 2
            assert await gate.store.claim("one", "home2", now + LEASE_S - 1, LEASE_S, 10) == []
            assert len(await gate.store.claim("one", "home1", now + 1, LEASE_S, 10)) == 2
            assert len(await gate.store.claim("one", "home2", now + 1 + LEASE_S, LEASE_S, 10)) == 2

    asyncio.run(main())


def test_claims_of_a_clock_that_was_wrong_hold_up_nobody(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            await gate.add(1, 2)
            now = gate.clock.now()
            assert len(await gate.store.claim("one", "home1", now + 86_400, LEASE_S, 10)) == 2
            assert len(await gate.store.claim("one", "home2", now, LEASE_S, 10)) == 2
            # Clocks that differ by less than a lease respect each other's claims.
            assert await gate.store.claim("one", "home3", now + LEASE_S - 1, LEASE_S, 10) == []
            assert await gate.store.claim("one", "home3", now - LEASE_S + 1, LEASE_S, 10) == []

    asyncio.run(main())


def test_a_lease_outlasts_a_turn() -> None:
    assert PUBLISH_SECONDS < TURN_S < LEASE_S


def test_a_broker_that_is_away_loses_nothing_holds_up_no_other_and_is_told_of_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path) as gate:
            gate.one.away = True
            publishers = [gate.publisher(gate.one), gate.publisher(gate.two)]
            running = [asyncio.create_task(publisher.run()) for publisher in publishers]
            for hour in range(6):
                await gate.add(*range(hour * 10, hour * 10 + 10))
                for _ in range(8):
                    await until(lambda: gate.clock.sleeping == 2)
                    await gate.clock.advance(31)
            assert gate.one.taken == []
            assert gate.two.taken == names(*range(60))
            assert publishers[0].waiting == 60
            assert publishers[0].age_s() > 100
            gate.one.away = False
            async with asyncio.timeout(10):
                while await gate.store.backlog("one") != (0, None):
                    await gate.clock.advance(31)
            assert gate.one.taken == names(*range(60))
            behind, recovered = gate.events("events.behind"), gate.events("events.recovered")
            assert [(event["sink"], event["error"]) for event in behind] == [("one", "away")]
            await until(lambda: bool(gate.events("events.recovered")))
            recovered = gate.events("events.recovered")
            assert [event["sink"] for event in recovered] == ["one"]
            page = gate.metrics.page()[0].decode()
            assert 'headgate_events_published_total{sink="one"} 60.0' in page
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    asyncio.run(main())


def test_what_a_broker_refuses_does_not_hold_up_what_it_takes(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path) as gate:
            await gate.add(1, 2, 3)
            gate.one.only = 2
            await gate.publisher(gate.one, "home1").finish(10)
            assert (await gate.store.backlog("one"))[0] == 1
            await gate.publisher(gate.one, "home2").finish(10)
            assert gate.one.taken == names(1, 2, 3), "free at once for whoever can deliver it"

    asyncio.run(main())


class Shaky(Store):
    """Its removals fail, as often as told."""

    away = 0

    async def published(self, sequence: Sequence[int]) -> None:
        if self.away > 0:
            self.away -= 1
            raise Overloaded("the database is away")
        await super().published(sequence)


def test_what_was_acknowledged_while_sql_was_away_is_removed_later_and_not_sent_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path) as gate:
            store = Shaky(gate.sql, ("one", "two"))
            store.away = 3
            await gate.add(1, 2, 3)
            running = asyncio.create_task(gate.publisher(gate.one, store=store).run())
            async with asyncio.timeout(10):
                while await gate.store.backlog("one") != (0, None):
                    await gate.clock.advance(31)
            assert gate.one.taken == names(1, 2, 3)
            assert gate.events("events.behind")[0]["error"] == "the database is away"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_a_stop_in_the_middle_of_a_batch_waits_for_its_answer(tmp_path: Path) -> None:
    class Slow(Broker):
        asked, answer = asyncio.Event(), asyncio.Event()

        async def publish(self, messages: Sequence[Message]) -> Delivery:
            self.asked.set()
            await self.answer.wait()
            return await super().publish(messages)

    async def main() -> None:
        async with house(tmp_path) as gate:
            gate.one = slow = Slow()
            await gate.add(1, 2)
            running = asyncio.create_task(gate.publisher(slow).run())
            await slow.asked.wait()
            running.cancel()
            await asyncio.sleep(0)
            slow.answer.set()
            await asyncio.gather(running, return_exceptions=True)
            assert slow.taken == names(1, 2)
            assert await gate.store.backlog("one") == (0, None)

    asyncio.run(main())


def alert(number: int, at: float = 1.7e9) -> Event:
    budget = BudgetAlert("soft", "project", "acme", "usd/month/all/*", f"budget:acme:{number}", 80, 5, 100)
    return budget_event(budget, "/headgate/home1", at)


def test_a_budget_alert_of_several_replicas_is_one_event(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            for _ in range(3):
                outbox = Outbox(gate.store, gate.clock)
                outbox.tell(alert(1))
                await outbox.flush()
            claimed = await gate.store.claim("one", "home1", 0.0, 60.0, 10)
            assert [waiting.message.id for waiting in claimed] == [alert(1).message.id]
            body = json.loads(claimed[0].message.body)
            assert (body["type"], body["subject"], body["data"]["spent"]) == (
                "ai.headgate.budget.v1",
                "project:acme",
                80,
            )

    asyncio.run(main())


def test_an_alert_about_any_name_is_told(tmp_path: Path, sql_url: str) -> None:
    async def main() -> None:
        async with house(tmp_path, sql_url) as gate:
            outbox = Outbox(gate.store, gate.clock)
            noise = "".join(chr(0x1F300 + random.Random(place).randrange(500)) for place in range(1_000))
            for user in ("a\x00b", "größe 😀", "' --", "a\r\nNats-Expected-Stream: other", noise):
                alert = BudgetAlert("soft", "user", user, "usd/month/user/*", f"user:{user}:2026-11", 1, 0, 1)
                outbox.tell(budget_event(alert, "/headgate/home1", 0.0))
            await outbox.flush()
            await gate.publisher(gate.one).finish(10)
            assert len(gate.one.taken) == 5
            # NATS takes the id as a header.
            assert all(re.fullmatch(r"[a-z0-9_]{1,64}", name) for name in gate.one.taken)

    asyncio.run(main())


def test_telling_never_waits_is_bounded_and_survives_a_database_that_is_away(tmp_path: Path) -> None:
    class Away(Store):
        away = True

        async def enqueue(self, events: Sequence[Event]) -> None:
            if self.away:
                raise Overloaded("the database is away")
            await super().enqueue(events)

    async def main() -> None:
        async with house(tmp_path) as gate:
            store = Away(gate.sql, ("one",))
            outbox = Outbox(store, gate.clock)
            running = asyncio.create_task(outbox.run())
            for number in range(TOLD_MAX + 20):
                outbox.tell(alert(number))
            await until(lambda: gate.clock.sleeping == 1)
            store.away = False
            async with asyncio.timeout(10):
                while (await store.backlog("one"))[0] < TOLD_MAX:
                    await gate.clock.advance(31)
            first = (await store.claim("one", "home1", 0.0, 60.0, 1))[0]
            assert first.message.id == alert(20).message.id, "the oldest were dropped"
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def test_a_real_broker_killed_under_load_and_brought_back_has_every_receipt_once(tmp_path: Path) -> None:
    async def main(server: Nats) -> None:
        await server.make_stream()
        async with house(tmp_path) as gate:
            store = Store(gate.sql, ("nats",), "/headgate/home1")
            bus = NatsBus(NatsSettings(url=server.url, stream=STREAM), {})
            log = Log(gate.clock, "debug", gate.lines.append)
            publisher = Publisher(Sink("nats", bus), store, "home1", gate.clock, random.Random(1), log, gate.metrics)
            running = asyncio.create_task(publisher.run())
            for turn in range(30):
                numbers = range(turn * 50, turn * 50 + 50)
                await store.add_receipts([receipt(number) for number in numbers], "log", 1)
                if turn in {8, 18}:
                    await asyncio.to_thread(server.kill)
                if turn in {12, 24}:
                    await asyncio.to_thread(server.start)
                await gate.clock.advance(31)
            async with asyncio.timeout(30):
                while (await store.backlog("nats"))[0]:
                    await gate.clock.advance(31)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await bus.aclose()
        read = [event["id"] for event in await server.read()]
        assert set(read) == set(names(*range(1500)))
        assert len(read) == 1500
        assert gate.events("events.behind")

    with nats_server() as server:
        asyncio.run(main(server))
