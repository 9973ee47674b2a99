"""PostgreSQL dies, stands still, and comes back under load: known keys go on, and no receipt is lost or doubled."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.house import Wire
from tests.live import until
from tests.stores.house import Callers, House, check_accounts, check_books, house
from tests.upstream.process import get

PER_SECOND = 50
BUDGET = {"amount": 1_000, "per": "total"}
NAMES = ("north", "south", "west")


def state(found: House, gate: int, key: str) -> tuple[int, str | None]:
    """The status of a question with this key, and the error's code."""
    status, body = found.gates[gate].get("/v1/models", key)
    return status, json.loads(body)["error"]["code"] if status != 200 else None


def revoke(found: House, key_id: str) -> None:
    with Wire(found.gates[0].port) as wire:
        wire.request("DELETE", f"/admin/keys/{key_id}", None, found.gates[0].key)
        assert wire.answer("DELETE").status == 200


async def until_away(found: House) -> None:
    """An unknown key is told to wait, not that it is wrong."""
    everywhere = range(len(found.gates))
    await asyncio.to_thread(
        until, lambda: all(state(found, gate, "hg-unknown") == (503, "keys_unavailable") for gate in everywhere)
    )


async def until_back(found: House) -> None:
    everywhere = range(len(found.gates))
    await asyncio.to_thread(
        until, lambda: all(state(found, gate, "hg-unknown") == (401, "invalid_api_key") for gate in everywhere), 40.0
    )


def killed(found: House, upstream: str, before_s: float, away_s: float) -> None:
    keys = [found.tenant(name, budgets=[BUDGET]) for name in NAMES]
    doomed: Any = found.race.post("/admin/keys", {"name": "doomed", "tenant": NAMES[0]})
    callers = Callers(found.ports)
    sent = get(upstream, "/stats")["requests"]
    gone = back = 0.0

    async def main() -> None:
        nonlocal gone, back
        async with callers.pouring(keys, PER_SECOND):
            await asyncio.sleep(before_s)
            await asyncio.to_thread(found.postgres.kill)
            gone = time.monotonic()
            await until_away(found)
            assert state(found, 1, doomed["key"]) == (200, None)
            await asyncio.sleep(away_s)
            back = time.monotonic()
            await asyncio.to_thread(found.postgres.start)
            await until_back(found)
            print(f"keys known again {time.monotonic() - back:.1f} s after the start of PostgreSQL")
            assert (await callers.call(doomed["key"])).status == 200
            at = time.monotonic()
            await asyncio.to_thread(revoke, found, doomed["id"])
            await asyncio.to_thread(until, lambda: state(found, 1, doomed["key"]) == (401, "invalid_api_key"))
            print(f"a key revoked is refused by the other gateway {time.monotonic() - at:.2f} s later")
            await asyncio.sleep(before_s)

    asyncio.run(main())
    codes = callers.codes(gone, back)
    print(f"while PostgreSQL was away: {dict(codes)}, p99 {callers.slowest(gone, back) * 1000:.0f} ms")
    print(f"before: {dict(callers.codes(before=gone))}, p99 {callers.slowest(before=gone) * 1000:.0f} ms")
    assert codes["200"] >= 0.99 * codes.total()
    assert callers.codes()["200"] >= 0.99 * len(callers.told)
    check(found, callers, upstream, sent)


def check(found: House, callers: Callers, upstream: str, sent: int) -> None:
    """Ledger, upstream, callers and accounts tell the same story."""
    served = check_books(found, NAMES, callers.told)
    assert served == get(upstream, "/stats")["requests"] - sent
    for name in NAMES:
        check_accounts(found, name)


def paused(folder: Path, upstream: str, paused_s: float) -> None:
    with house(2, folder, upstream) as found:
        keys = [found.tenant(name, budgets=[BUDGET]) for name in NAMES]
        callers = Callers(found.ports)
        sent = get(upstream, "/stats")["requests"]
        stood = went = 0.0

        async def main() -> None:
            nonlocal stood, went
            async with callers.pouring(keys, PER_SECOND):
                await asyncio.sleep(paused_s)
                stood = time.monotonic()
                found.postgres.pause()
                try:
                    await asyncio.sleep(paused_s)
                    went = time.monotonic()
                finally:
                    found.postgres.resume()
                await until_back(found)

        asyncio.run(main())
        during = [told for told in callers.told if stood <= told.sent < went - 1.0]
        codes = callers.codes(stood, went)
        print(f"PostgreSQL stood still for {paused_s:g} s: {dict(codes)}", end="; ")
        print(f"p99 {callers.slowest(stood, went) * 1000:.0f} ms, before {callers.slowest(before=stood) * 1000:.0f} ms")
        assert set(callers.codes()) == {"200"}
        assert [told for told in during if told.answered > went] == [], "they waited for the database"
        check(found, callers, upstream, sent)


def test_a_database_that_is_killed_stops_no_known_key_and_costs_no_receipt(pair: House, model_server: str) -> None:
    killed(pair, model_server, before_s=1.0, away_s=3.0)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_a_database_killed_for_half_a_minute(model_server: str, tmp_path: Path) -> None:
    with house(2, tmp_path, model_server) as found:
        killed(found, model_server, before_s=10.0, away_s=40.0)


@pytest.mark.prove
@pytest.mark.timeout(600)
def test_a_database_that_stands_still_keeps_no_call_waiting(model_server: str, tmp_path: Path) -> None:
    paused(tmp_path, model_server, 5.0)
