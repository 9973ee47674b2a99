"""R22: one key, many callers, several replicas on one PostgreSQL, and some of them killed meanwhile."""

import asyncio
import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest

from tests.idempotency.talk import Got, chat, message, send, together
from tests.idempotency.upstream import counting, runs
from tests.live import Live, start, until, wait_ready
from tests.servers import postgres_database

CONFIG = """
discover: false
engine: {{enabled: false}}
storage: {{sql: {sql}}}
backends:
  - {{name: up, base_url: "{upstream}", models: ["*"]}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""
WAVE = 12
"""Keys in play at once."""


class Replicas:
    """Servers on one database and one upstream; a killed one is started again in its old home."""

    def __init__(self, folder: Path, count: int, sql: str, upstream: str) -> None:
        self.folder = folder
        self.upstream = upstream
        self.sql = sql
        self.config = CONFIG.format(sql=json.dumps(sql), upstream=upstream)
        self.lives: list[Live] = []
        self.count = count

    def begin(self) -> None:
        """The first makes the tables alone; not every PostgreSQL of a test is fast."""
        for number in range(self.count):
            self.lives.append(self._start(number))
            if number == 0:
                wait_ready(self.lives[0])
        for live in self.lives:
            wait_ready(live)

    def _start(self, number: int) -> Live:
        secret = {"HEADGATE_SECRET": "one secret for all of them"}
        return start(self.folder / str(number), self.config, secret)

    @property
    def ports(self) -> list[int]:
        return [live.port for live in self.lives]

    async def kill(self, number: int) -> None:
        """As the kernel would; and starts it again."""
        live = self.lives[number]
        live.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(live.process.wait, 10)
        again = self._start(number)
        self.lives[number] = await asyncio.to_thread(wait_ready, again)

    def charges(self) -> Counter[str]:
        """Entries of the ledger by key: those of complete answers."""
        with psycopg.connect(self.sql) as db:
            return Counter(key for (key,) in db.execute("select tags ->> 'key' from ledger where outcome = 'ok'"))

    def stop(self) -> None:
        for live in self.lives:
            if live.process.poll() is None:
                live.process.terminate()
        for live in self.lives:
            live.process.wait(45)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def replicas(stack: ExitStack, folder: Path, count: int) -> Replicas:
    fleet = Replicas(folder, count, stack.enter_context(postgres_database()), stack.enter_context(counting()))
    stack.callback(fleet.stop)
    fleet.begin()
    return fleet


def body_of(key: str, rng: random.Random) -> bytes:
    """A stream or a whole answer that takes up to a second: long enough for a kill in its middle."""
    stream = rng.random() < 0.5
    model = f"ok:ms={rng.randint(0, 150)}" if stream else f"slow_head:ms={rng.randint(0, 1000)}"
    return message(chat(key, model, stream=stream, metadata={"key": key}), key)


async def insist(fleet: Replicas, data: bytes, rng: random.Random) -> Got:
    """Sends until there is an answer, each time to any replica, as a client behind a balancer would."""
    async with asyncio.timeout(120):
        while True:
            try:
                answer = await send(rng.choice(fleet.ports), data)
            except (OSError, EOFError):
                await asyncio.sleep(0.05)
                continue
            if answer.status != 503 and not unfinished(answer):
                return answer
            await asyncio.sleep(0.05)


def unfinished(answer: Got) -> bool:
    """A stream that was ended by an error."""
    stream = answer.headers["content-type"].startswith("text/event-stream")
    return stream and not answer.body.endswith(b"data: [DONE]\n\n")


async def one_key(fleet: Replicas, key: str, callers: int, rng: random.Random) -> list[Got]:
    data = body_of(key, rng)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(insist(fleet, data, random.Random(rng.random()))) for _ in range(callers)]
    return [task.result() for task in tasks]


async def storm(fleet: Replicas, keys: int, callers: int, kills: int, rng: random.Random) -> dict[str, list[Got]]:
    """All keys, some at a time, while replicas are killed one after the other, spread over the whole of it."""
    answers: dict[str, list[Got]] = {}
    turns = asyncio.Semaphore(WAVE)

    async def play(key: str) -> None:
        async with turns:
            answers[key] = await one_key(fleet, key, callers, random.Random(key))

    async def killer() -> None:
        for number in range(1, kills + 1):
            while len(answers) < number * keys // (kills + 2):
                await asyncio.sleep(0.01)
            await fleet.kill(rng.randrange(len(fleet.lives)))

    async with asyncio.TaskGroup() as group:
        killing = group.create_task(killer())
        for number in range(keys):
            group.create_task(play(f"key-{number}"))
    killing.result()
    return answers


def judge(fleet: Replicas, answers: dict[str, list[Got]]) -> tuple[set[str], set[str]]:
    """The keys that were answered, and those whose outcome is unknown; for each, all callers were told alike."""
    answered, unknown = set(), set()
    ran = runs(fleet.upstream)
    for key, got in answers.items():
        assert ran.get(key, 0) <= 1, key
        assert len({(answer.status, answer.body) for answer in got}) == 1, key
        if got[0].status == 200:
            answered.add(key)
            assert ran[key] == 1
        else:
            assert got[0].code == "idempotency_outcome_unknown", got[0].body
            unknown.add(key)
    return answered, unknown


def holds(stack: ExitStack, folder: Path, keys: int, callers: int, kills: int) -> None:
    fleet = replicas(stack, folder, 4)
    answers = asyncio.run(storm(fleet, keys, callers, kills, random.Random(22)))
    assert len(answers) == keys
    answered, unknown = judge(fleet, answers)
    print(
        f"{keys} keys x {callers} callers x 4 replicas, {kills} kills: {len(answered)} answered, "
        f"{len(unknown)} unknown; none ran twice"
    )
    assert len(answered) >= keys * 0.5
    until(lambda: answered <= set(fleet.charges()), 30)
    charges = fleet.charges()
    assert max(charges.values()) == 1
    assert set(charges) - answered <= unknown


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
def test_callers_of_all_replicas_share_one_execution_and_one_charge(
    stack: ExitStack, tmp_path: Path, stream: bool
) -> None:
    fleet = replicas(stack, tmp_path, 3)
    body = chat("shared", "ok:ms=40", stream=stream, metadata={"key": "shared"})
    data = message(body, "shared")
    answers = asyncio.run(together(fleet.ports * 7, data))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert runs(fleet.upstream) == {"shared": 1}
    assert Counter(answer.replay for answer in answers)[None] == 1
    until(lambda: fleet.charges() == {"shared": 1}, 20)
    other = asyncio.run(together(fleet.ports, message(chat("other"), "shared")))
    assert {(answer.status, answer.code) for answer in other} == {(409, "idempotency_key_reused")}


def test_kills_among_replicas_run_nothing_twice(stack: ExitStack, tmp_path: Path) -> None:
    holds(stack, tmp_path, keys=24, callers=5, kills=2)


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_five_hundred_keys_with_twenty_callers_each_survive_twenty_kills(stack: ExitStack, tmp_path: Path) -> None:
    holds(stack, tmp_path, keys=500, callers=20, kills=20)
