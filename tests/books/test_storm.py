"""The whole server, killed again and again under load: what the upstream counted is in the ledger, to the nanodollar.

A fifth of the callers leave midway and a tenth of the upstream's answers are errors. The truth is what the upstream
process wrote down as each call arrived.
"""

import asyncio
import json
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.books.witness import witness
from tests.live import Live, serving, start, wait_ready
from tests.load.client import Refused, ask, chat
from tests.servers import postgres_database

CONFIG = """
discover: false
engine: {{enabled: false}}
storage: {{sql: {sql}}}
prices: {prices}
admission: {{key_requests_per_minute: 100000000, key_tokens_per_minute: 100000000000}}
retries: {{attempts: 1}}
backends: [{{name: up, base_url: "{upstream}"}}]
routes: [{{model: "*", targets: [{{backend: up}}]}}]
"""
PRICES = 'version = "storm"\n[[price]]\nmodel = "*"\neffective = 2020-01-01\ninput = 1.237\noutput = 4.319\n'
INPUT, OUTPUT = 1_237, 4_319
"""Nanodollars a token."""
CLIENTS = 32
FIELDS = "select id, user_id, outcome, status, cost_nanos, estimated, input_tokens, output_tokens from ledger"
Rows = list[tuple[Any, ...]]


@dataclass
class Storm:
    """Calls made so far, and what the clients saw of them."""

    rng: random.Random
    calls: int
    made: int = 0
    finished: list[str] = field(default_factory=list)
    left: int = 0
    """Callers that left after the first piece of their answer."""
    failed: int = 0
    """Errors of the upstream's that reached a caller."""

    async def client(self, live: Live, until: int) -> None:
        """One call after the other until the server is gone or enough calls were made."""
        while live.process.poll() is None and self.made < until:
            self.made += 1
            name = f"caller-{self.made}"
            try:
                await self._call(live, name)
            except Refused as refused:
                self.failed += refused.status in {500, 502}
            except (OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.005)

    async def _call(self, live: Live, name: str) -> None:
        kind = self.rng.random()
        leaves = kind < 0.2
        model = "honest:gap=5" if leaves else "status:code=500" if kind < 0.3 else "honest"
        stream = leaves or self.rng.random() < 0.5
        text = f"{name} " + "word " * self.rng.randrange(12)
        async with ask(live.port, live.key, chat(model, text, user=name, stream=stream)) as answer:
            if leaves:
                await answer.piece()
                self.left += 1
                return
            heard = await answer.body()
        assert heard.endswith(b"data: [DONE]\n\n") if stream else json.loads(heard)["choices"]
        self.finished.append(name)

    async def round(self, live: Live, until: int) -> None:
        """Loads the server and kills it at a random moment after so many calls in all."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(self.client(live, until + CLIENTS))
            while self.made < until:
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.rng.uniform(0, 0.01))
            live.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(live.process.wait, 10)


def run(folder: Path, calls: int, kills: int, seed: int, sql: str, rows: Callable[[], Rows]) -> None:
    home, seen = folder / "home", folder / "seen"
    (folder / "prices.toml").write_text(PRICES)
    storm, began = Storm(random.Random(seed), calls), time.monotonic()
    with witness(seen) as url:
        config = CONFIG.format(upstream=url, sql=sql, prices=folder / "prices.toml")
        for number in range(1, kills + 1):
            live = wait_ready(start(home, config))
            try:
                asyncio.run(storm.round(live, calls * number // kills))
            finally:
                live.process.kill()
                live.process.wait(10)
                live.log_path.unlink()  # a line a call: `wait_ready` would read them all again
        with serving(home, config) as live:
            status, body = live.get("/admin/usage", live.key)
            assert status == 200
    told = json.loads(body)["data"][0]["results"][0]
    print(f"{storm.made} calls and {kills} kills in {time.monotonic() - began:.0f} s: {len(storm.finished)} finished,")
    print(f"{storm.left} left midway, {storm.failed} told of an error of the upstream's")
    check(storm, seen, rows(), told)


def check(storm: Storm, seen: Path, rows: Rows, told: dict[str, Any]) -> None:
    lines = [line.split() for line in seen.read_text().splitlines()]
    counted = {user: (int(prompt), int(answer)) for user, prompt, answer in lines}
    reached = Counter(user for user, *_ in lines)
    entries = Counter(user for _, user, *_ in rows)
    outcomes = Counter(outcome for _, _, outcome, *_ in rows)
    print(f"{reached.total()} attempts reached the upstream; {len(rows)} are in the ledger: {dict(outcomes)}")
    assert len({id_ for id_, *_ in rows}) == len(rows)
    missing = [user for user, count in reached.items() if entries[user] < count]
    assert not missing, f"without an entry: {missing[:5]}"
    more = {user for user, count in entries.items() if reached[user] < count}
    assert not [row for row in rows if row[1] in more and row[2] != "lost"], "entries of attempts that nobody saw"
    assert {user for user, count in entries.items() if count > 1} == set()

    done = {user: row for _, user, outcome, *row in rows if outcome == "ok"}
    assert not set(storm.finished) - set(done), "a caller saw an answer whose entry does not say so"
    for user, (status, nanos, estimated, prompt, answer) in done.items():
        assert (status, bool(estimated), (prompt, answer)) == (200, False, counted[user])
        assert nanos == prompt * INPUT + answer * OUTPUT
    truth = sum(counted[user][0] * INPUT + counted[user][1] * OUTPUT for user in done)
    ledger = sum(nanos for _, _, outcome, _, nanos, *_ in rows if outcome == "ok")
    assert ledger == truth
    assert told["num_model_requests"] == len(rows)
    assert round(told["cost_usd"] * 1e9) == sum(row[4] for row in rows)
    assert outcomes["cancelled"] > 0 < outcomes["failed"]
    print(f"{len(done)} finished calls cost {ledger} nanodollars by the ledger and {truth} by the upstream")


def run_on_sqlite(folder: Path, calls: int, kills: int, seed: int) -> None:
    def rows() -> Rows:
        with closing(sqlite3.connect(folder / "home" / "headgate.db")) as db:
            return db.execute(FIELDS).fetchall()

    run(folder, calls, kills, seed, "null", rows)


def run_on_postgres(folder: Path, calls: int, kills: int, seed: int) -> None:
    with postgres_database() as url:

        def rows() -> Rows:
            with psycopg.connect(url) as db:
                return db.execute(FIELDS).fetchall()

        run(folder, calls, kills, seed, json.dumps(url), rows)


def test_kills_under_load_leave_books_that_agree_with_the_upstream(tmp_path: Path) -> None:
    run_on_sqlite(tmp_path, 600, 2, seed=1)


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_calls_and_fifty_kills(tmp_path: Path) -> None:
    run_on_sqlite(tmp_path, 102_000, 50, seed=2)  # some find the server dead and never reach the upstream


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_ten_thousand_calls_and_ten_kills_on_postgresql(tmp_path: Path) -> None:
    run_on_postgres(tmp_path, 10_000, 10, seed=3)
