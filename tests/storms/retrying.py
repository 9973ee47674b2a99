"""A retry storm: every answer of every replica is an error, and every client retries as the official SDKs do."""

import asyncio
import random
import time

from tests.storms.figures import Figures
from tests.storms.load import Heard, ask
from tests.storms.stand import RESERVE, Stand

AGAIN_MOST = 2
"""Of the SDKs of OpenAI and Anthropic, unless told otherwise."""
FIRST_WAIT_S, WAIT_MOST_S = 0.5, 8.0
RATIO = 0.1


def retried(stand: Stand, rate: float, seconds: float) -> Figures:
    """However many clients come back however often, the upstreams get a tenth more than the clients send, and the
    reserve. Then they are well again.
    """
    began = time.monotonic()
    before = stand.requests()
    for up in stand.pool:
        up.set("500")
    sent, heard = asyncio.run(_clients(stand, rate, seconds))
    attempts = stand.requests() - before
    told = stand.right(heard, all_of_them=False)
    assert told["right"] == 0, told
    assert attempts <= (1 + RATIO) * sent + RESERVE, (attempts, sent)
    for up in stand.pool:
        up.calm()
    well = time.monotonic()
    again = asyncio.run(_until_well(stand, well))
    stand.settled()
    books = stand.books([*heard, *again], "storm")
    return {
        "rate": rate,
        "seconds": round(well - began, 1),
        "callers": len(heard),
        "requests_of_clients": sent,
        "attempts_at_upstreams": attempts,
        "attempts_per_request": round(attempts / sent, 3),
        "allowed": round((1 + RATIO) * sent + RESERVE),
        "codes": told["codes"],
        "reasons": books.reasons,
        "well_again_after_s": round(again[-1].done_s, 1),
    }


async def _clients(stand: Stand, rate: float, seconds: float) -> tuple[int, list[Heard]]:
    """Requests sent, and how the last one of each caller ended."""
    began, rng = time.monotonic(), random.Random(3)
    sent = 0
    source = stand.source("storm", model="plain")

    async def client(number: int, due: float) -> Heard:
        nonlocal sent
        for turn in range(AGAIN_MOST + 1):
            sent += 1
            heard = await ask(source, number, due, began, {"x-stainless-retry-count": str(turn)})
            if heard.result == "right" or not heard.again:
                break
            if turn < AGAIN_MOST:
                wait = min(FIRST_WAIT_S * 2.0**turn, WAIT_MOST_S) * (1 - 0.25 * rng.random())
                await asyncio.sleep(heard.retry_after_s or wait)
        return heard

    calls = []
    async with asyncio.TaskGroup() as group:
        for turn in range(round(rate * seconds)):
            due = turn / rate
            await asyncio.sleep(began + due - time.monotonic())
            calls.append(group.create_task(client(turn, due)))
    return sent, [call.result() for call in calls]


async def _until_well(stand: Stand, since: float) -> list[Heard]:
    """Calls, one after the other, until three in a row are answered."""
    heard: list[Heard] = []
    for number in range(300):
        heard.append(await ask(stand.source("well", model="plain"), number, 0.0, since))
        if len(heard) >= 3 and all(call.result == "right" for call in heard[-3:]):
            return heard
        await asyncio.sleep(0.2)
    raise AssertionError(f"not well again: {heard[-1]}")
