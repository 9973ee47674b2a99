"""Kill -9 of the server, and of the broker: every entry of the ledger is an event, once after reading by id."""

import asyncio
import itertools
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.brokers import Nats, nats_server
from tests.crash.recorder import recorder
from tests.crash.test_openings import CONFIG, until_killed
from tests.live import Live, serving, start, until, wait_ready

SINK = """
events: [{{kind: nats, url: "{url}", stream: HEADGATE}}]
"""


def storm(folder: Path, broker: Nats, rounds: int, seed: int) -> None:
    home, rng, numbers = folder / "home", random.Random(seed), itertools.count()
    asyncio.run(broker.make_stream())
    with recorder(folder / "seen") as url:
        config = CONFIG.format(upstream=url) + SINK.format(url=broker.url)
        for turn in range(rounds):
            live = wait_ready(start(home, config))
            try:
                asyncio.run(until_killed(live, rng, numbers))
            finally:
                live.process.kill()
                live.process.wait(10)
            if turn % 2 == 0:
                broker.kill()
            else:
                broker.start()
        if rounds % 2:
            broker.start()
        with serving(home, config) as live:
            assert live.get("/admin/usage", live.key)[0] == 200
            until(lambda: not waiting(home), 40, lambda: waiting(home))
            told(live)
    with closing(sqlite3.connect(home / "headgate.db")) as db:
        entries = dict(db.execute("select id, outcome from ledger"))
    read = asyncio.run(broker.read())
    outcomes = {event["id"]: event["data"]["outcome"] for event in read}
    print(f"{len(entries)} entries, {len(read)} events")
    assert outcomes == entries
    assert "lost" in outcomes.values()
    bodies = {event["id"]: event for event in read}
    assert all(event == bodies[event["id"]] for event in read), "what came twice came the same"


def waiting(home: Path) -> int:
    with closing(sqlite3.connect(home / "headgate.db")) as db:
        return int(db.execute("select count(*) from outbox").fetchone()[0])


def told(live: Live) -> None:
    """A broker that was away is told of, and that it is back."""
    behind, recovered = live.events("events.behind"), live.events("events.recovered")
    assert all(event["sink"] == "nats" and event["error"] for event in behind)
    assert len(recovered) <= len(behind)


def test_kills_of_server_and_broker_lose_no_event(tmp_path: Path) -> None:
    with nats_server() as broker:
        storm(tmp_path, broker, 3, seed=21)


@pytest.mark.prove
def test_fifteen_kills_of_server_and_broker_lose_no_event(tmp_path: Path) -> None:
    with nats_server() as broker:
        storm(tmp_path, broker, 15, seed=22)
