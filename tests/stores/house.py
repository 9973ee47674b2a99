"""Gateways that share a PostgreSQL and a Redis which a test may take away, and callers who write down what they got."""

import asyncio
import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import redis
from msgspec import Struct

from headgate.core.policy import NANOS
from tests import servers
from tests.live import Live, serving, until
from tests.load.client import Refused, ask, chat
from tests.load.test_budget_race import CONFIG, OUTPUT_MOST, PRICES, Race
from tests.upstream.exchange import honest_usage

SECRET = {"HEADGATE_SECRET": "one secret for all of them"}
MODEL = "honest:ms=20"


class OwnRedis:
    """One that may be killed, paused and started again, empty, at the same place."""

    def __init__(self) -> None:
        self.server, self.url = servers.start_redis()
        self._port = int(self.url.rpartition(":")[2].partition("/")[0])

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server, _ = servers.start_redis(self._port)

    def tell(self, *command: str) -> Any:
        with redis.Redis.from_url(self.url) as client:
            return client.execute_command(*command)


class House:
    """`count` gateways with everything shared."""

    def __init__(self, gates: list[Live], postgres: servers.Postgres, store: OwnRedis) -> None:
        self.gates = gates
        self.race = Race(gates)
        self.postgres = postgres
        self.redis = store

    @property
    def ports(self) -> list[int]:
        return [gate.port for gate in self.gates]

    def tenant(self, name: str, **policy: Any) -> str:
        """A project with this policy; its key, once every gateway knows it."""
        key: str = self.race.post("/admin/keys", {"name": name, "tenant": name})["key"]
        self.gates[0].put(f"/v1/organization/projects/{name}/policy", policy)
        version = json.dumps(json.loads(self.gates[0].get(self._policy(name), self.gates[0].key)[1]))

        def known() -> bool:
            return all(
                gate.get("/v1/models", key)[0] == 200
                and json.dumps(json.loads(gate.get(self._policy(name), gate.key)[1])) == version
                for gate in self.gates
            )

        until(known)
        return key

    @staticmethod
    def _policy(name: str) -> str:
        return f"/v1/organization/projects/{name}/policy"

    def rows(self, name: str) -> list[tuple[str, str, int]]:
        """What PostgreSQL holds of a project: call, outcome, nanodollars of each entry."""
        with psycopg.connect(self.postgres.url, connect_timeout=3) as db:
            query = "SELECT call_id, outcome, coalesce(cost_nanos, 0) FROM ledger WHERE tenant = %s"
            return [(str(call), str(outcome), int(cost)) for call, outcome, cost in db.execute(query, (name,))]

    def account(self, name: str) -> tuple[int, int] | None:
        """Spent and held of a project's budget in total, as Redis has it; None where it knows of none."""
        found = self.redis.tell("KEYS", f"*project:{name}:usd/total/*")
        hashes = [key for key in found if self.redis.tell("TYPE", key) == b"hash"]
        if not hashes:
            return None
        spent, held = self.redis.tell("HMGET", hashes[0], "s", "h")
        return int(spent), int(held)

    def degraded(self, since: float) -> list[float]:
        """Seconds after `since` (Unix) at which each gateway said that its limits have lost their store."""
        said = [[e["at"] - since for e in gate.events("limits.degraded") if e["at"] >= since] for gate in self.gates]
        return [times[0] for times in said if times]


@contextlib.contextmanager
def house(count: int, folder: Path, upstream: str, extra: str = "") -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        store = OwnRedis()
        stack.callback(lambda: store.server.stop())
        postgres = servers.Postgres()
        stack.callback(postgres.stop)
        gates = []
        for number in range(count):
            home = folder / f"gate{number}"
            home.mkdir(parents=True)
            (home / "prices.toml").write_text(PRICES)
            config = CONFIG.format(counters=store.url, sql=f'"{postgres.url}"', folder=home, upstream=upstream)
            gates.append(stack.enter_context(serving(home, config + extra, SECRET)))
        yield House(gates, postgres, store)


class Told(Struct, frozen=True):
    """What became of one call. Times are seconds of the monotonic clock."""

    sent: float
    answered: float
    status: int
    code: str | None = None
    call: str = ""
    nanos: int = 0
    """What it cost, by the upstream's count."""
    reason: str = ""


class Callers:
    """Keeps every answer; `told` is in the order in which they came."""

    def __init__(self, ports: Sequence[int], model: str = MODEL) -> None:
        self.ports = ports
        self.model = model
        self.told: list[Told] = []
        self.number = 0

    async def call(self, key: str, stream: bool | None = None) -> Told:
        number = self.number = self.number + 1
        text = f"{number} " + "word " * (number % 20)
        streamed = number % 2 == 0 if stream is None else stream
        body = chat(self.model, text, max_tokens=1 + number % OUTPUT_MOST, stream=streamed)
        sent = time.monotonic()
        try:
            async with ask(self.ports[number % len(self.ports)], key, body) as answer:
                await answer.body()
                told = Told(sent, time.monotonic(), 200, None, answer.request_id, cost(body))
        except Refused as refused:
            found = json.loads(refused.body)["error"]
            call = refused.headers.get("x-request-id", "")
            told = Told(sent, time.monotonic(), refused.status, found["code"], call, 0, found["message"])
        except (OSError, asyncio.IncompleteReadError) as error:
            told = Told(sent, time.monotonic(), 0, type(error).__name__)
        self.told.append(told)
        return told

    @contextlib.asynccontextmanager
    async def pouring(self, keys: Sequence[str], per_second: float) -> AsyncIterator[None]:
        """Calls at a steady pace, whatever becomes of them, for as long as the block lasts; then waits for the last."""
        async with asyncio.TaskGroup() as group:
            tap = group.create_task(self._pour(group, keys, per_second))
            try:
                yield
            finally:
                tap.cancel()

    async def _pour(self, group: asyncio.TaskGroup, keys: Sequence[str], per_second: float) -> None:
        begun, count = time.monotonic(), 0
        while True:
            group.create_task(self.call(keys[count % len(keys)]))
            count += 1
            await asyncio.sleep(max(0.0, begun + count / per_second - time.monotonic()))

    def codes(self, after: float = 0.0, before: float = float("inf")) -> Counter[str]:
        """How many calls sent in this time ended how."""
        return Counter(told.code or str(told.status) for told in self.told if after <= told.sent < before)

    def slowest(self, after: float = 0.0, before: float = float("inf"), part: float = 0.99) -> float:
        """The seconds within which this part of the calls sent in this time were over."""
        took = sorted(told.answered - told.sent for told in self.told if after <= told.sent < before)
        return took[min(len(took) - 1, int(part * len(took)))] if took else 0.0


def cost(body: dict[str, Any]) -> int:
    """Nanodollars of a whole answer of the honest model, at the race's prices."""
    prompt, answer = honest_usage(body)
    return (prompt * 20 + answer * 800) * 1_000


def check_books(found: House, names: Sequence[str], told: Sequence[Told]) -> int:
    """Every call that was answered whole is in the ledger once, at its cost, and nothing else has one. How many."""
    served = {one.call: one.nanos for one in told if one.status == 200}
    begun = time.monotonic()

    def rows() -> list[tuple[str, str, int]]:
        return [row for name in names for row in found.rows(name)]

    def missing() -> int:
        return len(served.keys() - {call for call, _, _ in rows()})

    until(lambda: not missing(), 40.0, missing)
    entries = rows()
    print(f"{len(served)} calls answered; all are in the ledger {time.monotonic() - begun:.1f} s later")
    assert len(entries) == len({call for call, _, _ in entries}), "an entry stands twice"
    assert {call: nanos for call, outcome, nanos in entries if outcome == "ok"} == served
    assert all(nanos == 0 for _, outcome, nanos in entries if outcome != "ok")
    return len(served)


def check_accounts(found: House, name: str, within_nanos: int = 0) -> None:
    """Redis comes to know of all that the ledger does, and of no more than so much beyond it, with nothing held."""
    begun = time.monotonic()

    def beyond() -> int:
        """What the account says more than the ledger."""
        account = found.account(name)
        if account is None:  # it is made of the ledger when it is needed
            return 0
        return account[0] - sum(nanos for *_, nanos in found.rows(name)) if account[1] == 0 else -1

    until(lambda: 0 <= beyond() <= within_nanos, 40.0, beyond)
    took = time.monotonic() - begun
    print(f"{name}: the account knows what the ledger does {took:.1f} s later, and {beyond() / NANOS:.6f} dollars more")


def said(told: Told) -> tuple[int, int]:
    """What a refusal by a budget says is spent and held, in nanodollars."""
    found = re.search(r"\$([\d.]+) of \$[\d.]+ spent, \$([\d.]+) held", told.reason)
    assert found is not None, told.reason
    return round(float(found[1]) * NANOS), round(float(found[2]) * NANOS)


async def last_words(callers: Callers, key: str) -> Told:
    """Calls one at a time until the budget refuses for good."""
    for _ in range(10_000):
        told = await callers.call(key)
        if told.code == "insufficient_quota":
            return told
        if told.status != 200:
            await asyncio.sleep(0.02)
    raise AssertionError("the budget never came to its end")


def most_in_a_second(told: list[Told]) -> int:
    """The most calls that surely were let in within one window: asked and answered in it."""
    let_in = [(one.sent, one.answered) for one in told if one.status == 200]
    return max((sum(begin <= sent and end <= begin + 1 for sent, end in let_in) for begin, _ in let_in), default=0)
