"""kill -9 at random moments under load: what a client saw finished is in the ledger once, and nothing is there twice.

The answers' own request ids are the measure: a call's `x-request-id` is its receipt's `call_id`.
"""

import asyncio
import json
import random
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.live import Live, serving, start, wait_ready
from tests.load.client import Refused, ask, chat
from tests.servers import postgres_database
from tests.upstream.process import upstream

CONFIG = """
discover: false
engine: {{enabled: false}}
storage: {{sql: {sql}}}
backends:
  - {{name: script, kind: scripted}}
  - {{name: up, base_url: "{upstream}"}}
  - {{name: dead, base_url: "http://127.0.0.1:9/v1", models: [none]}}
routes:
  - {{model: falls, targets: [{{backend: dead, model: none}}], fallbacks: [{{backend: up, model: ok}}]}}
"""
CLIENTS = 16
ROW = "select id, call_id, attempt, outcome from ledger"
Rows = list[tuple[str, str, int, str]]


@pytest.fixture(scope="module")
def model_server() -> Iterator[str]:
    with upstream() as url:
        yield url


class Seen:
    """What the clients saw of their calls, by request id."""

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.finished: set[str] = set()


def call_of(rng: random.Random) -> dict[str, Any]:
    model = rng.choice(["scripted", "ok", "falls"])
    stream = rng.random() < 0.5
    return chat(model, "some words to say " * rng.randint(1, 4), stream=stream)


async def client(live: Live, rng: random.Random, seen: Seen) -> None:
    """One call after the other until the server is gone. A stream is finished at its `[DONE]`, not before."""
    while True:
        body = call_of(rng)
        try:
            async with ask(live.port, live.key, body) as answer:
                seen.begun.add(answer.request_id)
                heard = await answer.body()
        except (OSError, asyncio.IncompleteReadError, Refused):
            if live.process.poll() is not None:
                return
            await asyncio.sleep(0.01)
            continue
        assert heard.endswith(b"data: [DONE]\n\n") if body["stream"] else json.loads(heard)["choices"]
        seen.finished.add(answer.request_id)


async def until_killed(live: Live, rng: random.Random, seen: Seen) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client(live, random.Random(rng.random()), seen))
        await asyncio.sleep(rng.uniform(0.05, 0.8))
        live.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(live.process.wait, 10)


def storm(home: Path, config: str, rounds: int, seed: int) -> Seen:
    """Starts, loads and kills the server, always with the same home."""
    rng, seen = random.Random(seed), Seen()
    for _ in range(rounds):
        live = wait_ready(start(home, config))
        try:
            asyncio.run(until_killed(live, rng, seen))
        finally:
            live.process.kill()
            live.process.wait(10)
    return seen


def check(home: Path, config: str, seen: Seen, rows: Callable[[], Rows]) -> None:
    with serving(home, config) as live:
        status, body = live.get("/admin/usage?group_by=outcome", live.key)
        assert status == 200
        told = {r["group"]["outcome"]: r["num_model_requests"] for r in json.loads(body)["data"][0]["results"]}
    found = rows()
    print(
        f"{len(seen.finished)} calls finished of {len(seen.begun)} begun; {len(found)} attempts in the ledger: {told}"
    )
    assert len(seen.finished) > 50
    assert told == Counter(outcome for *_, outcome in found)
    assert max(Counter((call, attempt) for _, call, attempt, _ in found).values()) == 1
    done = Counter(call for _, call, _, outcome in found if outcome == "ok")
    assert max(done.values()) == 1
    assert sorted(id_ for id_ in seen.finished if done[id_] != 1) == []
    lines = [json.loads(line) for path in home.glob("ledger/*.jsonl") for line in whole_lines(path)]
    assert sorted(line["id"] for line in lines if "id" in line) == sorted(id_ for id_, *_ in found)
    # What left for an upstream is in the ledger, whatever became of the process: no opening without its receipt.
    assert {line["opening"]["id"] for line in lines if "opening" in line} <= {id_ for id_, *_ in found}
    assert seen.begun <= {call for _, call, _, _ in found}


def whole_lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line.endswith(b"}")]


def in_sqlite(home: Path) -> Rows:
    with closing(sqlite3.connect(home / "headgate.db")) as db:
        return db.execute(ROW).fetchall()


def in_postgres(url: str) -> Rows:
    with psycopg.connect(url) as db:
        return db.execute(ROW).fetchall()


def survives(home: Path, model_server: str, rounds: int, seed: int) -> None:
    config = CONFIG.format(upstream=model_server, sql="null")
    check(home, config, storm(home, config, rounds, seed), lambda: in_sqlite(home))


def survives_on_postgres(home: Path, model_server: str, rounds: int, seed: int) -> None:
    with postgres_database() as url:
        config = CONFIG.format(upstream=model_server, sql=json.dumps(url))
        check(home, config, storm(home, config, rounds, seed), lambda: in_postgres(url))


def test_five_kills_lose_no_finished_call_and_count_none_twice(model_server: str, tmp_path: Path) -> None:
    survives(tmp_path, model_server, 5, seed=1)


def test_kills_lose_nothing_with_the_ledger_on_postgresql(model_server: str, tmp_path: Path) -> None:
    survives_on_postgres(tmp_path, model_server, 2, seed=2)


@pytest.mark.prove
def test_fifty_kills_lose_no_finished_call_and_count_none_twice(model_server: str, tmp_path: Path) -> None:
    survives(tmp_path, model_server, 50, seed=3)


@pytest.mark.prove
def test_twenty_kills_lose_nothing_with_the_ledger_on_postgresql(model_server: str, tmp_path: Path) -> None:
    survives_on_postgres(tmp_path, model_server, 20, seed=4)
