"""The storms in which some upstreams fail, are late or are switched off.

Each asserts what holds on any machine (counts), and gives the figures; times are judged by who asks for a run of full
size.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.storms.figures import Figures, first_ms
from tests.storms.kinds import FAILING, ODD, RESTING, rules
from tests.storms.load import Heard, storm
from tests.storms.stand import Stand


@dataclass(frozen=True)
class Size:
    """So many calls a second, for so long."""

    rate: float
    seconds: float


def faults(stand: Stand, size: Size, calm_s: float) -> Figures:
    """30 % of one replica's answers fail, in every way; the others are honest; there is no fallback."""
    source = stand.source("faults", model="plain")
    numbers = itertools.count()
    calm = asyncio.run(storm(source, size.rate, calm_s, numbers))
    before = stand.requests()
    ill = stand.pool[0]
    ill.rules(rules([kind for kind in FAILING if kind not in RESTING], 0.3, seed=4))
    heard = asyncio.run(storm(source, size.rate, size.seconds, numbers))
    limits = stand.limits()
    ill.calm()
    attempts = stand.requests() - before
    _quiet(stand, calm + heard)
    books = stand.books(heard, "faults")
    told = stand.right(heard, all_of_them=False)
    extra = attempts / len(heard) - 1
    return {
        "rate": size.rate,
        "seconds": size.seconds,
        **told,
        "struck": sum(ill.stats()["faults"].values()),
        "extra_pct": round(100 * extra, 2),
        **{f"calm_{name}": value for name, value in first_ms(calm).items()},
        **first_ms(heard),
        "reasons": books.reasons,
        "failures": books.failures,
        "limits": limits,
        "states": [state for _, state, _ in stand.told("pool-1")],
    }


def chaos(stand: Stand, size: Size) -> Figures:
    """Three replicas, of each of which 30 % of the answers fail and some are odd; an honest fallback. R10."""
    for seed, up in enumerate(stand.pool):
        up.rules([*rules(FAILING, 0.3, seed), *rules(ODD, 0.05, seed + 100)])
    before, spare_before = stand.requests(), stand.spare.stats()["requests"]
    heard = asyncio.run(storm(stand.source("chaos", model="backed"), size.rate, size.seconds))
    for up in stand.pool:
        up.calm()
    attempts, spare = stand.requests() - before, stand.spare.stats()["requests"] - spare_before
    _quiet(stand, heard)
    told = stand.right(heard, all_of_them=False)
    books = stand.books(heard, "chaos")
    return {
        "rate": size.rate,
        "seconds": size.seconds,
        **told,
        **first_ms(heard),
        "attempts": attempts,
        "at_the_fallback_pct": round(100 * spare / len(heard), 1),
        "reasons": books.reasons,
        "failures": books.failures,
    }


def hedged(stand: Stand, size: Size, max_extra: float) -> Figures:
    """One replica begins 10 % of its answers 1 s late: the same load without hedges, then with them.

    The replicas are asked in turns: the default balance avoids such a one, so that there is little left to hedge. What
    it does alone is shown first.
    """
    late = {"fault": "slow_first=1", "share": 0.1, "seed": 6}
    stand.pool[0].rules([late])
    found: Figures = {"rate": size.rate, "seconds": size.seconds, "max_extra_pct": 100 * max_extra}
    everything: list[Heard] = []
    for name, model in (("default_balance", "plain"), ("without", "turns"), ("with", "hedged")):
        before = stand.requests()
        heard = asyncio.run(storm(stand.source(f"late-{model}", model=model, whole_every=0), size.rate, size.seconds))
        everything += heard
        told = stand.right(heard)
        extra = 100 * ((stand.requests() - before) / len(heard) - 1)
        found |= {f"{name}_{key}": value for key, value in first_ms(heard).items() if key.startswith("ttft")}
        found |= {f"{name}_right": told["right"], f"{name}_extra_pct": round(extra, 2)}
    stand.pool[0].calm()
    _quiet(stand, everything)
    books = stand.books(everything, "late-hedged")
    hedges = books.reasons.get("hedge", 0)
    # A few may be saved up from before.
    assert hedges <= max_extra * size.rate * size.seconds + 10, books.reasons
    won = sum(entry.reason == "hedge" and entry.outcome == "ok" for entry in books.entries)
    return found | {"hedges": hedges, "hedges_won": won}


def switched(stand: Stand, size: Size) -> Figures:
    """A backend is switched off under load, and on again: a third of the time before, off and after."""
    return asyncio.run(_switched(stand, size))


async def _switched(stand: Stand, size: Size) -> Figures:
    began = time.monotonic()
    load = asyncio.create_task(storm(stand.source("switch", model="backed"), size.rate, size.seconds))
    await asyncio.sleep(size.seconds / 3)
    asked = time.monotonic()
    body = {"kind": "backend", "name": "pool", "reason": "a storm"}
    status, answer = await asyncio.to_thread(stand.live.post, "/v1/organization/kill_switches?wait_s=10", body)
    off = time.monotonic()
    made = json.loads(answer)
    assert status in {200, 201}, made
    assert made["in_force"] is True, made
    await asyncio.sleep(0.2)  # what was on its way has arrived
    arrived = stand.requests() - stand.spare.stats()["requests"]
    await asyncio.sleep(size.seconds / 3)
    late = stand.requests() - stand.spare.stats()["requests"] - arrived
    on = time.monotonic()
    await asyncio.to_thread(stand.live.delete, f"/v1/organization/kill_switches/{made['id']}")
    heard = await load
    told = stand.right(heard)
    reached = [marker for up in stand.pool for marker in up.stats()["markers"]]
    while_off = {call.marker for call in heard if off - began < call.due_s < on - began}
    assert while_off
    assert not while_off & set(reached), sorted(while_off & set(reached))[:5]
    after = [call for call in heard if call.due_s > size.seconds * 0.95]
    assert any(call.replica.startswith("pool") for call in after)
    await asyncio.to_thread(_quiet, stand, heard)
    return {
        "rate": size.rate,
        "seconds": size.seconds,
        **told,
        "acknowledged_ms": round(1000 * (off - asked)),
        "calls_while_off": len(while_off),
        "of_them_at_the_backend": len(while_off & set(reached)),
        "retries_of_earlier_calls_there": late,
    }


def _quiet(stand: Stand, heard: Sequence[Heard]) -> None:
    stand.settled()
    stand.books(heard)
