"""A thousand callers at once against one budget, on one gateway and on four: nothing is spent that was not held."""

import asyncio
import contextlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from headgate.core.policy import NANOS
from tests import servers
from tests.live import Live, serving, until
from tests.load.client import Refused, ask, chat

CALLERS = 1_000
BUDGET = 1.0
OUTPUT_MOST = 10
PRICES = """
version = "race"
[[price]]
model = "*"
effective = 2020-01-01
input = 20
output = 800
"""
HOLD = (OUTPUT_MOST * 800 + 80 * 20) / 1_000_000
"""Dollars: no call of this race may hold more."""
CONFIG = """
discover: false
engine: {{enabled: false}}
storage: {{counters: "{counters}", sql: {sql}}}
prices: {folder}/prices.toml
admission: {{concurrency: 100000, queue: 100000, key_concurrency: 100000, key_requests_per_minute: 100000000}}
capacity: {{max: 100000, initial: 100000}}
backends:
  - {{name: up, base_url: "{upstream}", timeouts: {{connect_s: 60}}}}
routes:
  - {{model: "*", targets: [{{backend: up}}]}}
"""


class Race(Struct, frozen=True):
    """Gateways that share everything, and one price."""

    gates: list[Live]

    def post(self, path: str, body: object) -> Any:
        status, answer = self.gates[0].post(path, body)
        assert status == 200, answer
        return json.loads(answer)

    def tenant(self, name: str) -> str:
        """A project with a budget of a dollar; a key made after it: who knows the key knows the budget."""
        self.post("/admin/keys", {"name": "the project's first", "tenant": name})
        self.gates[0].put(f"/v1/organization/projects/{name}/policy", {"budgets": [{"amount": BUDGET, "per": "total"}]})
        key: str = self.post("/admin/keys", {"name": name, "tenant": name})["key"]
        return key

    def spent(self, name: str) -> int:
        """What the ledger says, in nanodollars, once every gateway has shipped its receipts."""
        for gate in self.gates:
            status, _ = gate.get(f"/admin/usage?tenant={name}", gate.key)
            assert status == 200
        body = json.loads(self.gates[0].get(f"/admin/usage?tenant={name}", self.gates[0].key)[1])
        result = body["data"][0]["results"][0]
        assert result["unpriced_requests"] == 0
        return round((result["cost_usd"] or 0.0) * NANOS)


@contextlib.contextmanager
def racing(count: int, folder: Path, upstream: str) -> Iterator[Race]:
    with contextlib.ExitStack() as stack:
        counters, sql = "memory", "null"
        if count > 1:
            server, counters = servers.start_redis()
            stack.callback(server.stop)
            sql = f'"{stack.enter_context(servers.postgres_database())}"'
        gates = []
        for number in range(count):
            home = folder / f"gate{number}"
            home.mkdir(parents=True)
            (home / "prices.toml").write_text(PRICES)
            config = CONFIG.format(counters=counters, sql=sql, folder=home, upstream=upstream)
            gates.append(stack.enter_context(serving(home, config, {"HEADGATE_SECRET": "one secret for all of them"})))
        yield Race(gates)


async def caller(port: int, key: str, rng: random.Random, number: int) -> str:
    """One call: whole, streamed, or left in the middle. What became of it."""
    stream = rng.random() < 0.6
    text = f"{number} " + "word " * rng.randrange(20)
    body = chat("honest:ms=20,gap=2", text, max_tokens=rng.randrange(1, OUTPUT_MOST + 1), stream=stream)
    try:
        async with ask(port, key, body) as answer:
            if stream and rng.random() < 0.3:
                await answer.piece()
                return "left"
            await answer.body()
            return "whole"
    except Refused as refused:
        return told(refused)


def told(refused: Refused) -> str:
    """The code of a refusal; a final one tells SDKs so, and the other when to come again."""
    if refused.code == "limits_unavailable":  # a machine so busy that the store seems away: nothing is spent then
        return refused.code
    final = refused.code == "insufficient_quota"
    assert refused.status == 429, refused
    assert refused.headers.get("x-should-retry") == ("false" if final else None)
    assert ("retry-after" in refused.headers) != final
    return str(refused.code)


def accounts(refused: Refused) -> tuple[int, int]:
    """What a refusal says is spent and held, in nanodollars."""
    found = re.search(r"\$([\d.]+) of \$1 spent, \$([\d.]+) held", refused.body.decode())
    assert found is not None, refused.body
    return round(float(found[1]) * NANOS), round(float(found[2]) * NANOS)


def last_words(race: Race, key: str) -> tuple[int, int]:
    """Calls one at a time until the budget refuses for good; what it then says is spent and held, in nanodollars."""

    async def main() -> tuple[int, int]:
        for number in range(10_000):
            try:
                async with ask(race.gates[number % len(race.gates)].port, key, chat("honest", f"last {number}",
                               max_tokens=OUTPUT_MOST)) as answer:  # fmt: skip
                    await answer.body()
            except Refused as refused:
                if told(refused) == "insufficient_quota":
                    return accounts(refused)
                await asyncio.sleep(0.02)
        raise AssertionError("the budget never came to its end")

    return asyncio.run(main())


def run(race: Race, seed: int) -> tuple[float, Counter[str]]:
    """Dollars spent of the one there was, and what became of the callers."""
    name = f"race-{seed}"
    key = race.tenant(name)
    rng = random.Random(seed)

    def known() -> bool:
        return all(gate.get("/v1/models", key)[0] == 200 for gate in race.gates)

    until(known)

    async def main() -> list[str]:
        ports = [rng.choice(race.gates).port for _ in range(CALLERS)]
        return await asyncio.gather(*(
            caller(port, key, random.Random(rng.random()), number) for number, port in enumerate(ports)
        ))  # fmt: skip

    became = Counter(asyncio.run(main()))
    for gate in race.gates:
        gate.settle()

    def agreed() -> bool:
        """Account and ledger; after some seconds where the store of limits seemed away for a moment."""
        told, held = last_words(race, key)
        return held == 0 and abs(race.spent(name) - told) < 1_000  # the message shows microdollars

    until(agreed, 20.0)
    spent = race.spent(name)
    assert spent <= BUDGET * NANOS, f"{(spent - NANOS) / NANOS} dollars over"
    assert spent >= (BUDGET - HOLD) * NANOS, f"only {spent / NANOS} of a dollar could be used"
    return spent / NANOS, became


@pytest.mark.parametrize("gateways", [1, 4])
def test_a_thousand_callers_spend_a_dollar_and_not_more(gateways: int, model_server: str, tmp_path: Path) -> None:
    with racing(gateways, tmp_path, model_server) as race:
        spent, became = run(race, seed=1)
        print(f"{gateways} gateways: {spent:.6f} of 1 dollar spent; {dict(became)}")
        assert min(became["whole"], became["left"], CALLERS - became["whole"] - became["left"]) > 20


@pytest.mark.prove
@pytest.mark.parametrize("gateways", [1, 4])
def test_two_hundred_races(gateways: int, model_server: str, tmp_path: Path) -> None:
    with racing(gateways, tmp_path, model_server) as race:
        results = [run(race, seed)[0] for seed in range(200)]
        print(f"{gateways} gateways, 200 seeds: {min(results):.6f} to {max(results):.6f} of 1 dollar spent")
