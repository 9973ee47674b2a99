"""A disk that takes no more, under a whole server: new work is refused by name, what was answered is in the ledger,
and it goes on by itself once there is room.
"""

import asyncio
import contextlib
import json
import resource
import sqlite3
from pathlib import Path

import pytest

from tests.live import Live, serving, until
from tests.load.test_budget_race import CONFIG, PRICES
from tests.stores.house import Callers

ROOM = 3_000
"""Bytes that the disk still takes: some ten lines of the log, and the last is cut."""


def full(live: Live) -> None:
    """No file of the server may become longer than its log of receipts is now, and a little."""
    size = sum(path.stat().st_size for path in live.home.glob("ledger/*.jsonl"))
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (size + ROOM, resource.RLIM_INFINITY))


def room(live: Live) -> None:
    resource.prlimit(live.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def fill(folder: Path, upstream: str, rounds: int, seconds: float) -> None:
    (folder / "prices.toml").write_text(PRICES)
    config = CONFIG.format(counters="memory", sql="null", folder=folder, upstream=upstream)
    with serving(folder / "home", config) as live:
        key = json.loads(live.post("/admin/keys", {"name": "app", "tenant": "acme"})[1])["key"]
        live.put("/v1/organization/projects/acme/policy", {"budgets": [{"amount": 1_000, "per": "total"}]})
        callers = Callers([live.port])

        async def refused() -> bool:
            return (await callers.call(key)).code == "ledger_unavailable"

        async def main() -> None:
            for _ in range(rounds):
                async with callers.pouring([key], 40):
                    await asyncio.sleep(seconds)
                    full(live)
                    async with asyncio.timeout(20):
                        while not await refused():
                            pass
                    assert live.get("/livez")[0] == 200
                    await asyncio.sleep(seconds)
                    assert await refused()
                    room(live)
                    async with asyncio.timeout(20):
                        while await refused():
                            await asyncio.sleep(0.02)
                    await asyncio.sleep(seconds)

        asyncio.run(main())
        codes = callers.codes()
        print(f"{rounds} times a full disk: {dict(codes)}")
        assert codes.keys() <= {"200", "ledger_unavailable", "IncompleteReadError"}
        assert live.process.poll() is None
        assert live.events("task.died") == live.events("bug") == []
        check_ledger(live, callers)


def check_ledger(live: Live, callers: Callers) -> None:
    """Each call answered whole is there once, at its cost; and none stands twice."""
    served = {told.call: told.nanos for told in callers.told if told.status == 200}

    def rows() -> list[tuple[str, str, int]]:
        with contextlib.closing(sqlite3.connect(live.home / "headgate.db")) as db:
            return list(db.execute("SELECT call_id, outcome, cost_nanos FROM ledger WHERE tenant = 'acme'"))

    until(lambda: served.keys() <= {call for call, _, _ in rows()}, 40.0, lambda: (len(served), len(rows())))
    entries = rows()
    assert len(entries) == len({call for call, _, _ in entries})
    assert served.items() <= {call: cost for call, _, cost in entries}.items()


def test_a_full_disk_refuses_by_name_loses_nothing_and_passes(model_server: str, tmp_path: Path) -> None:
    fill(tmp_path, model_server, 1, 0.5)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_ten_full_disks(model_server: str, tmp_path: Path) -> None:
    fill(tmp_path, model_server, 10, 2.0)
