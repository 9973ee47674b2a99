"""The ledger against what the upstreams counted and what the callers were told, call by call."""

import json
import re
from collections import Counter
from typing import Any

from headgate.core.policy import NANOS
from tests.live import Live
from tests.soak.house import INPUT, OUTPUT, TOKENS, House
from tests.soak.traffic import TOGETHER, Told

COLUMNS = "id, user_id, outcome, reason, input_tokens, output_tokens, estimated, cost_nanos, code"
Tried = tuple[str, str, str | None]
"""Why an attempt was made, what became of it, and the code of its failure."""


def check(house: House, told: Told, prompts: dict[str, int]) -> dict[str, Any]:
    """Sums, and what does not agree (`amiss`, with examples). `prompts` are the tokens of each marker's prompt."""
    rows = house.rows(COLUMNS)
    reached: Counter[str] = Counter()
    for up in house.ups:
        reached.update(up.stats()["markers"])
    entries = Counter(row[1] for row in rows)
    done = Counter(row[1] for row in rows if row[2] == "ok")
    known: dict[str, list[Tried]] = {}
    for row in rows:
        known.setdefault(row[1], []).append((row[3], row[2], row[8]))
    amiss: dict[str, list[Any]] = {
        "ids": [] if len({row[0] for row in rows}) == len(rows) else ["an id stands twice"],
        "missing": [marker for marker, count in reached.items() if entries[marker] < count],
        "invented": [row for row in rows if entries[row[1]] > reached[row[1]] and row[2] not in {"cancelled", "failed"}
                     and done[row[1]] > reached[row[1]]],
        "finished": [(marker, known[marker]) for marker, count in told.finished.items()
                     if not _explained(known[marker], count, shared=marker[7] == "f")],
        "tokens": [row for row in rows if row[2] == "ok" and not row[6] and row[3] != "continue"
                   and (row[4], row[5]) != (prompts.get(row[1]), TOKENS)],
        "cost": [row for row in rows if row[7] != row[4] * INPUT + row[5] * OUTPUT],
    }  # fmt: skip
    resent = sum(count - entries[marker] for marker, count in reached.items() if entries[marker] < count)
    if resent <= house.faults.get("reset_reuse", 0):  # sent once more, unseen, since a kept connection was dead
        amiss["missing"] = []
    outcomes = Counter(row[2] for row in rows)
    return {
        "entries": len(rows), "upstream_requests": reached.total(), "resent": resent, "outcomes": dict(outcomes),
        "reasons": dict(Counter(row[3] for row in rows)), "cost_nanos": sum(row[7] or 0 for row in rows),
        "amiss": {name: [len(found), found[:5]] for name, found in amiss.items() if found},
    }  # fmt: skip


def _explained(tries: list[Tried], answers: int, *, shared: bool) -> bool:
    """Whether these attempts can have given so many whole answers to one caller, or to several who asked alike.

    Each answer has one attempt that is `ok`. Two have it where a race ended in a tie; none where a stream was whole for
    its caller although its server's last words were missing, or late.
    """
    done = sum(outcome == "ok" for _, outcome, _ in tries)
    raced = any(reason == "hedge" for reason, *_ in tries)
    broken = any(outcome in {"failed", "cancelled"} for _, outcome, _ in tries)
    most = (TOGETHER if shared else answers) + raced
    return (1 <= done <= most) or (done == 0 and broken)


def accounts(live: Live, house: House, keys: list[str]) -> dict[str, Any]:
    """What each tenant's budget has spent and holds by its own account, against the ledger; only what differs."""
    spent: Counter[str] = Counter()
    for tenant, nanos in house.rows("tenant, cost_nanos"):
        spent[tenant] += nanos or 0
    differing: dict[str, Any] = {}
    for number, key in enumerate(keys):
        name = f"tenant-{number}"
        live.put(f"/v1/organization/projects/{name}/policy", {"budgets": [{"amount": 0.000001, "per": "total"}]})
        body = {"model": "goes-on", "messages": [{"role": "user", "content": "is anything held?"}]}
        status, answer = live.post("/v1/chat/completions", body, key)
        while status == 200:  # the new policy is not in force yet
            spent[name] = _ledger(house, name)
            status, answer = live.post("/v1/chat/completions", body, key)
        message = json.loads(answer)["error"]["message"]
        found = re.search(r"\$([\d.,]+) of \$[\d.,]+ spent, \$([\d.,]+) held", message)
        if found is None or float(found[2]) or abs(float(found[1].replace(",", "")) * NANOS - spent[name]) > 1_000:
            differing[name] = [message, spent[name]]
    return differing


def _ledger(house: House, tenant: str) -> int:
    return sum(nanos or 0 for name, nanos in house.rows("tenant, cost_nanos") if name == tenant)
