"""Entries and sums as CSV (RFC 4180) or JSON lines, a page in memory at a time.

A spreadsheet runs what begins like a formula, and names, tags and models come from callers: such texts get an
apostrophe in front (OWASP, CSV injection). Numbers are left as they are.
"""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

import msgspec

from headgate.core.usage import Receipt
from headgate.ledger.accounts.questions import PAGE, Answers, UsageQuery, UsageRow

Format = Literal["csv", "json"]
ENTRY_COLUMNS = (
    "id", "call_id", "attempt", "tenant", "user", "key_id", "session", "operation", "model", "backend",
    "upstream_model", "started_at", "duration_ms", "ttft_ms", "outcome", "status", "code", "stream", "input_tokens",
    "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens", "estimated", "cost_nanos", "cost_usd",
    "price_version", "corrects", "tags", "replica", "reason", "begun_ms", "queue_ms", "overhead_ms", "passed_over",
)  # fmt: skip
SUM_COLUMNS = (
    "requests", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "cost_nanos", "cost_usd", "unpriced", "estimated", "corrections",
)  # fmt: skip
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_encoder = msgspec.json.Encoder()


async def export_entries(accounts: Answers, query: UsageQuery, form: Format) -> AsyncIterator[bytes]:
    """Every entry that the query's times and filters leave, oldest first; the groups are passed over."""
    if form == "csv":
        yield csv_line(ENTRY_COLUMNS)
    async for page in accounts.entries(query):
        if form == "csv":
            yield b"".join(csv_line(_entry_cells(entry)) for entry in page)
        else:
            yield b"".join(json_line(_entry_object(entry)) for entry in page)


async def export_sums(accounts: Answers, query: UsageQuery, form: Format) -> AsyncIterator[bytes]:
    """A row per group, in the order of the groups."""
    if form == "csv":
        yield csv_line((*query.group_by, *SUM_COLUMNS))
    after: tuple[str | int, ...] = ()
    while True:
        page = await accounts.usage(msgspec.structs.replace(query, limit=PAGE, after=after))
        rows: list[dict[str, object]] = [{**row.group, **_sums(row)} for row in page]
        yield b"".join(csv_line(list(row.values())) if form == "csv" else json_line(row) for row in rows)
        if len(page) < PAGE or not query.group_by:
            return
        after = page[-1].place


def csv_line(cells: Sequence[object]) -> bytes:
    """One line, its texts made safe for spreadsheets."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow([_cell(cell) for cell in cells])
    return out.getvalue().encode("utf-8", "replace")


def json_line(fields: dict[str, object]) -> bytes:
    return _encoder.encode({name: _written(value) for name, value in fields.items()}) + b"\n"


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return "'" + value
    return _written(value)


def _written(value: object) -> object:
    """A small `Decimal` would print itself with an exponent."""
    return f"{value:f}" if isinstance(value, Decimal) else value


def usd(nanos: int | None) -> Decimal | None:
    """Dollars, to the nanodollar."""
    return None if nanos is None else Decimal(nanos).scaleb(-9)


def _entry_object(entry: Receipt) -> dict[str, object]:
    """The fields under the names of the CSV's columns; times are Unix seconds."""
    usage = entry.usage
    return {
        "id": entry.id,
        "call_id": entry.call_id,
        "attempt": entry.attempt,
        "tenant": entry.tenant,
        "user": entry.user,
        "key_id": entry.key_id,
        "session": entry.session,
        "operation": entry.operation,
        "model": entry.model,
        "backend": entry.backend,
        "upstream_model": entry.upstream_model,
        "started_at": entry.started_at,
        "duration_ms": entry.duration_ms,
        "ttft_ms": entry.ttft_ms,
        "outcome": entry.outcome,
        "status": entry.status,
        "code": entry.code,
        "stream": entry.stream,
        "input_tokens": usage.input,
        "cached_tokens": usage.cached,
        "cache_write_tokens": usage.cache_write,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "estimated": usage.estimated,
        "cost_nanos": entry.cost_nanos,
        "cost_usd": usd(entry.cost_nanos),
        "price_version": entry.price_version,
        "corrects": entry.corrects,
        "tags": entry.tags,
        "replica": entry.replica,
        "reason": entry.reason,
        "begun_ms": entry.begun_ms,
        "queue_ms": entry.queue_ms,
        "overhead_ms": entry.overhead_ms,
        "passed_over": entry.passed_over,
    }


def _entry_cells(entry: Receipt) -> list[object]:
    fields = _entry_object(entry)
    fields["started_at"] = datetime.fromtimestamp(entry.started_at, UTC).isoformat(timespec="milliseconds")
    fields["tags"] = _encoder.encode(entry.tags).decode() if entry.tags else ""
    return [fields[name] for name in ENTRY_COLUMNS]


def _sums(row: UsageRow) -> dict[str, object]:
    return {
        "requests": row.requests,
        "input_tokens": row.input,
        "cached_tokens": row.cached,
        "cache_write_tokens": row.cache_write,
        "output_tokens": row.output,
        "reasoning_tokens": row.reasoning,
        "cost_nanos": row.cost_nanos,
        "cost_usd": usd(row.cost_nanos),
        "unpriced": row.unpriced,
        "estimated": row.estimated,
        "corrections": row.corrections,
    }
