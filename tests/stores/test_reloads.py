"""Settings and policies that change many times a minute under load: no call fails, every gateway follows, and settings
that are wrong change nothing.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.live import Live
from tests.load.client import ask, chat
from tests.stores.house import Callers, House, house

PER_SECOND = 50
PATIENCE_S = 10.0
LINE = "key_requests_per_minute: 100000000"
"""What `CONFIG` says, and is changed here."""
BROKEN = (
    "admission: {{key_requests_per_minute: -1}}\n",
    "admission: {{key_requests_per_minute: many}}\n",
    "backends: [{{name: up}}]\n",
    "routes: [{{model: '*', targets: [{{backend: nobody}}]}}]\n",
    "prices: {folder}/none.toml\n",
    "serveer: {{}}\n",
    "[: not yaml\n",
)


def write(live: Live, text: str) -> None:
    draft = live.home / "draft"
    draft.write_text(text)
    draft.replace(live.home / "headgate.yaml")
    live.process.send_signal(signal.SIGHUP)


def refusals(live: Live, since: int) -> list[str]:
    """What the log says of settings that were refused, from this byte on."""
    with live.log_path.open("rb") as log:
        log.seek(since)
        return [line.decode() for line in log.read().split(b"\n") if b'"config.refused"' in line]


async def limit_told(port: int, key: str) -> int:
    """The limit of requests that a call is told of."""
    async with ask(port, key, chat("honest", "hello", max_tokens=1)) as answer:
        await answer.body()
        return int(answer.headers["x-ratelimit-limit-requests"])


async def until_told(found: House, key: str, limit: int) -> float:
    """Seconds until every gateway tells of this limit."""
    begun = time.monotonic()
    for port in found.ports:
        while await limit_told(port, key) != limit:
            assert time.monotonic() - begun < PATIENCE_S, f"the limit of {limit} is not in force"
            await asyncio.sleep(0.02)
    return time.monotonic() - begun


class Changes:
    """Changes in turns with calls: `keys` are of a project without a policy, and of one with."""

    def __init__(self, found: House, plain: str, ruled: str) -> None:
        self.found = found
        self.plain = plain
        self.ruled = ruled
        self.texts = {gate.port: (gate.home / "headgate.yaml").read_text() for gate in found.gates}
        self.took: dict[str, list[float]] = {"reload": [], "policy": [], "refused": []}

    async def reload(self, number: int) -> None:
        limit = 50_000_000 + number
        for gate in self.found.gates:
            write(gate, self.texts[gate.port].replace(LINE, f"key_requests_per_minute: {limit}"))
        self.took["reload"].append(await until_told(self.found, self.plain, limit))

    async def policy(self, number: int) -> None:
        limit = {"unit": "requests", "amount": 1_000_000 + number}
        gate = self.found.gates[number % len(self.found.gates)]
        await asyncio.to_thread(gate.put, "/v1/organization/projects/ruled/policy", {"limits": [limit]})
        self.took["policy"].append(await until_told(self.found, self.ruled, 1_000_000 + number))

    async def broken(self, number: int) -> None:
        """Refused with what is wrong; the last good settings stay in force."""
        begun = time.monotonic()
        for gate in self.found.gates:
            read = gate.log_path.stat().st_size
            told = await limit_told(gate.port, self.plain)
            text = BROKEN[number % len(BROKEN)].format(folder=gate.home)
            write(gate, self._with(self.texts[gate.port], text))
            while not (refused := refusals(gate, read)):
                assert time.monotonic() - begun < PATIENCE_S
                await asyncio.sleep(0.02)
            assert "headgate.yaml" in refused[-1] or "none.toml" in refused[-1]
            assert await limit_told(gate.port, self.plain) == told
        self.took["refused"].append(time.monotonic() - begun)

    @staticmethod
    def _with(text: str, broken: str) -> str:
        """The settings with one section replaced, or one more."""
        section = broken.partition(":")[0]
        kept, skip = [], False
        for line in text.splitlines(keepends=True):
            skip = line.startswith(section + ":") or (skip and line[0] in " -")
            if not skip:
                kept.append(line)
        return "".join(kept) + broken

    async def restore(self) -> None:
        for gate in self.found.gates:
            write(gate, self.texts[gate.port])
        await until_told(self.found, self.plain, 100_000_000)


async def paced(seconds: float, count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """So many in this time, later ones later where one takes too long."""
    begun = time.monotonic()
    for number in range(count):
        await work(number)
        await asyncio.sleep(max(0.0, begun + (number + 1) * seconds / count - time.monotonic()))


@asynccontextmanager
async def streams(callers: Callers, key: str, count: int) -> AsyncIterator[None]:
    """So many long streams open at any time."""
    over = False

    async def one() -> None:
        while not over:
            await callers.call(key, stream=True)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(one())
        try:
            yield
        finally:
            over = True


def change(found: House, seconds: float, changes: int, broken: int) -> None:
    names = ["plain", "ruled"]
    plain, ruled = (found.tenant(name) for name in names)
    quick, slow = Callers(found.ports), Callers(found.ports, "honest:ms=20,gap=100")
    work = Changes(found, plain, ruled)

    async def main() -> None:
        async with quick.pouring([plain, ruled], PER_SECOND), streams(slow, plain, 20):
            begun = time.monotonic()
            async with asyncio.TaskGroup() as group:
                group.create_task(paced(seconds, changes, work.reload))
                group.create_task(paced(seconds, changes, work.policy))
            print(f"{changes} reloads and as many policies in {time.monotonic() - begun:.1f} s")
            await paced(seconds / 4, broken, work.broken)
            await work.restore()

    asyncio.run(main())
    told = {name: f"{sorted(took)[len(took) // 2]:.2f}, at most {max(took):.2f}" for name, took in work.took.items()}
    print(f"{len(quick.told)} calls and {len(slow.told)} streams; seconds until in force on all: {json.dumps(told)}")
    assert set(quick.codes()) == set(slow.codes()) == {"200"}
    for gate in found.gates:
        assert gate.events("task.died") == gate.events("bug") == []
    rows = [row for name in names for row in found.rows(name)]
    assert all(outcome == "ok" for _, outcome, _ in rows)


def test_settings_and_policies_change_under_load_and_no_call_fails(pair: House) -> None:
    change(pair, 3.0, 10, 3)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_two_hundred_reloads_and_two_hundred_policies(model_server: str, tmp_path: Path) -> None:
    with house(2, tmp_path, model_server) as found:
        change(found, 60.0, 200, 50)
