"""Kill -9 in the middle of answers: each call that reached the upstream is in the ledger, once.

The truth is what the upstream process wrote down. A row without it can only be an attempt that was opened and whose
process died before it left.
"""

import asyncio
import itertools
import json
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.recorder import recorder
from tests.live import Live, serving, start, wait_ready
from tests.load.client import Refused, ask, chat

CONFIG = """
discover: false
engine: {{enabled: false}}
backends: [{{name: up, base_url: "{upstream}"}}]
routes: [{{model: "*", targets: [{{backend: up}}]}}]
"""
CLIENTS = 12
MODELS = ("ok:tokens=30,ms=10", "ok:tokens=3", "ok:tokens=60,ms=10", "status:code=500")


async def client(live: Live, rng: random.Random, numbers: "itertools.count[int]") -> None:
    """Calls of every kind, one after the other, until the server is gone: streams, some left early, some that fail."""
    while live.process.poll() is None:
        body = chat(rng.choice(MODELS), "hello there", stream=rng.random() < 0.8, user=f"caller-{next(numbers)}")
        try:
            async with ask(live.port, live.key, body) as answer:
                if body["stream"] and rng.random() < 0.2:
                    await answer.piece()
                    continue
                await answer.body()
        except (OSError, asyncio.IncompleteReadError, Refused):
            await asyncio.sleep(0.01)


async def until_killed(live: Live, rng: random.Random, numbers: "itertools.count[int]") -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client(live, random.Random(rng.random()), numbers))
        await asyncio.sleep(rng.uniform(0.3, 1.0))
        live.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(live.process.wait, 10)


def storm(folder: Path, rounds: int, seed: int) -> None:
    home, seen = folder / "home", folder / "seen"
    rng, numbers = random.Random(seed), itertools.count()
    with recorder(seen) as url:
        config = CONFIG.format(upstream=url)
        for _ in range(rounds):
            live = wait_ready(start(home, config))
            try:
                asyncio.run(until_killed(live, rng, numbers))
            finally:
                live.process.kill()
                live.process.wait(10)
        with serving(home, config) as live:
            assert live.get("/admin/usage", live.key)[0] == 200
            told = [event["attempts"] for event in live.events("ledger.recovered")]
    check(home, Counter(seen.read_text().split()), sum(told))


def check(home: Path, reached: Counter[str], recovered: int) -> None:
    with closing(sqlite3.connect(home / "headgate.db")) as db:
        rows = db.execute("select id, user_id, outcome, status, code, estimated, input_tokens from ledger").fetchall()
    entries = Counter(user for _, user, *_ in rows)
    outcomes = Counter(outcome for _, _, outcome, *_ in rows)
    print(f"{reached.total()} attempts reached the upstream; {len(rows)} are in the ledger: {dict(outcomes)}")
    missing = {user for user, count in reached.items() if entries[user] < count}
    assert not missing, f"without an entry: {sorted(missing)[:5]}"
    more = {user for user, count in entries.items() if reached[user] < count}
    never_left = [row for row in rows if row[1] in more and row[2] != "lost"]
    assert not never_left, f"entries of attempts that nobody saw: {never_left[:5]}"
    assert len({id_ for id_, *_ in rows}) == len(rows)
    assert set(outcomes) == {"ok", "failed", "cancelled", "lost"}
    lost = [row for row in rows if row[2] == "lost"]
    assert len(lost) == recovered
    assert all(row[3:6] == (500, "process_lost", 1) and row[6] > 0 for row in lost)
    openings = [
        json.loads(line)["opening"]["id"]
        for path in (home / "ledger").glob("*.jsonl")
        for line in path.read_text().splitlines()
        if line.startswith('{"opening":') and line.endswith("}")
    ]
    assert set(openings) <= {id_ for id_, *_ in rows}


def test_kills_in_the_middle_of_answers_leave_one_entry_for_each_that_left(tmp_path: Path) -> None:
    storm(tmp_path, 3, seed=11)


@pytest.mark.prove
def test_twenty_five_kills_in_the_middle_of_answers(tmp_path: Path) -> None:
    storm(tmp_path, 25, seed=12)
