"""What others are told: CloudEvents about every entry of the ledger, and about budgets.

The form is CloudEvents 1.0 in structured JSON (github.com/cloudevents/spec). The `id` of a usage event is that of the
ledger's entry: who reads one twice knows it by that.
"""

import hashlib
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from msgspec import Struct

from headgate.core.bus import Message
from headgate.core.usage import Receipt

USAGE_TYPE = "ai.headgate.usage.v1"
BUDGET_TYPE = "ai.headgate.budget.v1"


class Event(Struct, frozen=True):
    """A message, and when what it tells of happened (Unix seconds)."""

    message: Message
    at: float


class BudgetAlert(Struct, frozen=True):
    """A budget comes to its end (`soft`), or has (`limit`). Amounts are nanodollars, or tokens as `budget` says."""

    kind: Literal["soft", "limit"]
    level: str
    id: str
    """Whose budget it is."""
    budget: str
    account: str
    """The budget's account of one period; there is one event per account and kind, whoever noticed first."""
    spent: int
    held: int
    limit: int


def usage_event(receipt: Receipt, source: str) -> Event:
    """`source` is a URI reference that names the journal: `/headgate/<instance>`."""
    ended = receipt.started_at + receipt.duration_ms / 1000
    data = {
        "call_id": receipt.call_id,
        "attempt": receipt.attempt,
        "project": receipt.tenant,
        "key_id": receipt.key_id,
        "user": receipt.user,
        "session": receipt.session,
        "operation": receipt.operation,
        "model": receipt.model,
        "backend": receipt.backend,
        "upstream_model": receipt.upstream_model,
        "started_at": receipt.started_at,
        "duration_ms": receipt.duration_ms,
        "ttft_ms": receipt.ttft_ms,
        "outcome": receipt.outcome,
        "status": receipt.status,
        "code": receipt.code,
        "stream": receipt.stream,
        "input_tokens": receipt.usage.input,
        "cached_tokens": receipt.usage.cached,
        "cache_write_tokens": receipt.usage.cache_write,
        "output_tokens": receipt.usage.output,
        "reasoning_tokens": receipt.usage.reasoning,
        "estimated": receipt.usage.estimated,
        "cost_nanos": receipt.cost_nanos,
        "price_version": receipt.price_version,
        "tags": receipt.tags,
        "corrects": receipt.corrects,
        "replica": receipt.replica,
        "reason": receipt.reason,
        "begun_ms": receipt.begun_ms,
        "queue_ms": receipt.queue_ms,
        "overhead_ms": receipt.overhead_ms,
        "passed_over": receipt.passed_over,
    }
    head = {"id": receipt.id, "source": source, "type": USAGE_TYPE, "subject": receipt.tenant}
    return _event(head, receipt.tenant, ended, data)


def budget_event(alert: BudgetAlert, source: str, at: float) -> Event:
    """Replicas that notice the same thing make events of the same id.

    A hash: accounts name users and models as callers wrote them, and ids become headers and keys of indexes.
    """
    subject = f"{alert.level}:{alert.id}"
    digest = hashlib.sha256(alert.account.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    head = {"id": f"bud_{digest}_{alert.kind}", "source": source, "type": BUDGET_TYPE, "subject": subject}
    return _event(head, alert.id, at, msgspec.to_builtins(alert))


def _event(head: dict[str, str], key: str, at: float, data: dict[str, Any]) -> Event:
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = {"specversion": "1.0", **head, "time": time, "datacontenttype": "application/json", "data": data}
    return Event(Message(head["id"], key, msgspec.json.encode(body).decode()), at)
