"""The outbox under kill -9 at every step, and under several publishers at once."""

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from headgate.core.bus import Delivery, KafkaSettings, Message
from headgate.core.clock import SystemClock
from headgate.ledger.outbox import Publisher, Sink
from headgate.ledger.store import Store
from headgate.storage.bus.kafka import KafkaBus
from headgate.storage.sql.open import open_sql
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from tests.brokers import Kafka, kafka_cluster
from tests.ledger.test_journal import ROOT, names, receipt

STEPS = ("ship", "shipped", "claim", "claimed", "publish", "publishing", "acknowledged", "remove", "removed")
RECEIPTS = 20

LIFE = """
import asyncio, json, os, random, signal, sys
from pathlib import Path
from headgate.core.bus import Delivery
from headgate.core.clock import SystemClock
from headgate.ledger.journal import Journal
from headgate.ledger.outbox import Publisher, Sink
from headgate.ledger.shipper import Shipper
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics
from tests.ledger.test_journal import receipt

folder, start, count, url, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]

def here(name):
    if name == step:
        os.kill(os.getpid(), signal.SIGKILL)

class Deadly(Store):
    async def add_receipts(self, receipts, log, position):
        here("ship")
        await super().add_receipts(receipts, log, position)
        here("shipped")

    async def claim(self, *arguments):
        here("claim")
        batch = await super().claim(*arguments)
        if batch:
            here("claimed")
        return batch

    async def published(self, sequence):
        here("remove")
        await super().published(sequence)
        here("removed")

class File:  # a broker that keeps everything, twice if it is told twice
    async def publish(self, messages):
        here("publish")
        with open(folder / "broker", "a") as file:
            for place, message in enumerate(messages):
                if place == len(messages) // 2:
                    file.flush()
                    here("publishing")
                file.write(message.body + "\\n")
        here("acknowledged")
        return Delivery(frozenset(message.id for message in messages))

async def main():
    sql = await open_sql(url)
    clock = SystemClock()
    store = Deadly(sql, ("file",), "/headgate/home1")
    journal = Journal(folder / "log")
    for number in range(start, start + count):
        journal.append(receipt(number))
    log = Log(clock, "error", print)
    await Shipper(journal, store, "home1", clock, log).flush()
    await Publisher(Sink("file", File()), store, "home1", clock, random.Random(1), log, Metrics()).finish(30)
    assert await store.backlog("file") == (0, None)
    await sql.aclose()

asyncio.run(main())
"""


def live(folder: Path, start: int, count: int, url: str, step: str) -> int:
    arguments = [str(folder), str(start), str(count), url, step]
    done = subprocess.run([sys.executable, "-c", LIFE, *arguments], cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr.decode()
    return done.returncode


def sweep(folder: Path, url: str) -> None:
    for place, step in enumerate(STEPS):
        assert live(folder, place * RECEIPTS, RECEIPTS, url, step) == -signal.SIGKILL, step
    assert live(folder, len(STEPS) * RECEIPTS, RECEIPTS, url, "never") == 0
    lines = (folder / "broker").read_text().splitlines()
    ids = Counter(line.partition('"id":"')[2].partition('"')[0] for line in lines)
    assert sorted(ids) == names(*range((len(STEPS) + 1) * RECEIPTS))
    assert len(set(lines)) == len(ids), "what comes twice is the same, letter for letter"
    deaths_with_a_batch_out = 3  # publishing, acknowledged, remove
    most = deaths_with_a_batch_out * RECEIPTS * len(STEPS)
    assert 0 < sum(ids.values()) - len(ids) <= most


def test_a_process_killed_at_every_step_loses_no_event_and_repeats_only_under_equal_ids(tmp_path: Path) -> None:
    sweep(tmp_path, f"sqlite:///{tmp_path}/ledger.db")


@pytest.mark.prove
def test_the_same_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    sweep(tmp_path, postgres_url)


class Counting:
    """Remembers what it was given, and takes its time."""

    def __init__(self, seen: list[str]) -> None:
        self.seen = seen
        self.mine = 0

    async def publish(self, messages: Sequence[Message]) -> Delivery:
        await asyncio.sleep(0.01)
        self.seen += [message.id for message in messages]
        self.mine += len(messages)
        return Delivery(frozenset(message.id for message in messages))

    async def aclose(self) -> None:
        return


def test_publishers_on_one_database_share_the_work_and_double_nothing(sql_url: str) -> None:
    async def main() -> None:
        clock, seen = SystemClock(), list[str]()
        databases = [await open_sql(sql_url) for _ in range(2)]
        stores = [Store(sql, ("one",)) for sql in databases]
        log = Log(clock, "error", print)
        buses = [Counting(seen) for _ in stores]
        await stores[0].add_receipts([receipt(number) for number in range(3_000)], "log", 1)
        await asyncio.gather(
            *(
                Publisher(Sink("one", bus), store, f"home{n}", clock, random.Random(n), log, Metrics()).finish(60)
                for n, (bus, store) in enumerate(zip(buses, stores, strict=True))
            )
        )
        assert sorted(seen) == names(*range(3_000))
        assert all(bus.mine >= 500 for bus in buses), "neither starves"
        for sql in databases:
            await sql.aclose()

    asyncio.run(main())


@pytest.mark.prove
def test_kafka_hanging_for_a_while_under_load_gets_every_receipt(tmp_path: Path) -> None:
    async def main(cluster: Kafka) -> None:
        clock = SystemClock()
        sql = await open_sql(f"sqlite:///{tmp_path}/ledger.db")
        store, log = Store(sql, ("kafka",), "/headgate/home1"), Log(clock, "error", print)
        bus = KafkaBus(KafkaSettings(servers=cluster.servers), {})
        publisher = Publisher(Sink("kafka", bus), store, "home1", clock, random.Random(1), log, Metrics())
        running = asyncio.create_task(publisher.run())
        for turn in range(40):
            await store.add_receipts([receipt(turn * 50 + number) for number in range(50)], "log", 1)
            if turn == 10:
                cluster.hang()
            if turn == 30:
                cluster.resume()
            await asyncio.sleep(0.5)
        async with asyncio.timeout(90):
            while (await store.backlog("kafka"))[0]:
                await asyncio.sleep(0.2)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await bus.aclose()
        await sql.aclose()
        read = await asyncio.to_thread(cluster.read, 2_000)
        assert {event["id"] for event in read} == set(names(*range(2_000)))
        assert len(read) < 3_000

    with kafka_cluster() as cluster:
        asyncio.run(main(cluster))
