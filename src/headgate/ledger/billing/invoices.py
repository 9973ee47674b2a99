"""Invoices: what a tenant owes for a month, by model and kind of token, equal to the ledger's sum to the nanodollar.

Quantities times the price book's prices make the lines. Where that is not what was charged when the calls were made
(each was rounded; the book may have changed since) a line of its own says by how much. Attempts whose price nobody knew
stand apart and are never counted as free.

An issued invoice never changes. What happens to its month afterwards (corrections, entries that came late) is an
adjustment on the tenant's next one, so that all invoices together always bill what the ledger holds.
"""

import hashlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct

from headgate.core.errors import BadCall
from headgate.core.policy import NANOS
from headgate.ledger.prices import Kind, Price, PriceTable, amount_nanos

DAY_S = 86_400
LineKind = Literal["input", "cached", "cache_write", "output", "reasoning", "unlisted", "difference", "corrections"]


class MonthSum(Struct, frozen=True, kw_only=True):
    """What a tenant used of one model on one day, summed over entries of one sort."""

    model: str
    backend: str
    upstream_model: str
    day: int
    """Days from 1970."""
    correction: bool
    priced: bool
    entries: int
    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    cost_nanos: int


class Line(Struct, frozen=True, kw_only=True):
    """`unlisted`: charged, but the book of today has no price for it. `difference` and `corrections`: see the note."""

    model: str
    backend: str
    upstream_model: str
    kind: LineKind
    tokens: int
    usd_per_million: float | None = None
    amount_nanos: int | None
    """None where the tokens are paid with another line: reasoning without a price of its own is part of output."""
    note: str = ""


class Unpriced(Struct, frozen=True, kw_only=True):
    """Work whose price nobody knew: in no sum."""

    model: str
    backend: str
    requests: int
    input_tokens: int
    output_tokens: int


class Adjustment(Struct, frozen=True, kw_only=True):
    """What became of a month after its invoice: the ledger's sum now, less all that was billed for it."""

    month: str
    number: str
    amount_nanos: int


class Invoice(Struct, frozen=True, kw_only=True):
    """Amounts are whole nanodollars. `total_nanos` is `month_nanos`, the ledger's sum, and the adjustments."""

    object: Literal["headgate.invoice"] = "headgate.invoice"
    number: str | None = None
    """None for a draft."""
    tenant: str
    month: str
    """`2026-11`, in UTC."""
    currency: Literal["usd"] = "usd"
    drawn_at: float
    """Unix seconds: of a draft now, of an issued one when it was issued."""
    price_version: str
    requests: int
    """Attempts with usage that have a price."""
    lines: tuple[Line, ...]
    adjustments: tuple[Adjustment, ...] = ()
    unpriced: tuple[Unpriced, ...] = ()
    month_nanos: int
    total_nanos: int
    total_usd: str
    previous_hash: str | None = None
    """Of the invoice issued before this one, whoever's it was: none can be taken out or slipped in."""
    hash: str | None = None
    """SHA-256 of this invoice's JSON with a null here."""


def month_span(month: str) -> tuple[float, float]:
    """The first second of a month `2026-11` in UTC, and that of the next. Raises `BadCall`."""
    match = re.fullmatch(r"(\d{4})-(\d{2})", month, re.ASCII)
    if match is None or not 1 <= int(match[2]) <= 12 or not 1970 <= int(match[1]) < 9999:
        raise BadCall(f"'{month[:20]}' is no month; write it as 2026-11.", param="month", code="invalid_value")
    year, number = int(match[1]), int(match[2])
    start = datetime(year, number, 1, tzinfo=UTC)
    end = datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)
    return start.timestamp(), end.timestamp()


def dollars(nanos: int) -> str:
    """Exact, with as many decimals as are needed, two at least: `12.50`, `0.000000009`, `-3.00`."""
    whole, rest = divmod(abs(nanos), NANOS)
    decimals = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if nanos < 0 else ''}{whole}.{decimals}"


def draw(
    tenant: str, month: str, sums: Sequence[MonthSum], prices: PriceTable, adjustments: Sequence[Adjustment], now: float
) -> Invoice:
    """The month's draft. Pure: the same sums and prices give the same invoice."""
    priced: dict[tuple[str, str, str, Price | None], list[MonthSum]] = {}
    for part in sums:
        if part.priced and not part.correction:
            price = prices.find(part.backend, part.upstream_model, float(part.day * DAY_S))
            priced.setdefault((part.model, part.backend, part.upstream_model, price), []).append(part)
    lines: list[Line] = []
    for (model, backend, upstream_model, price), parts in sorted(priced.items(), key=lambda item: item[0][:3]):
        lines += _model_lines((model, backend, upstream_model), price, parts)
    lines += _corrections(sums)
    month_nanos = sum(part.cost_nanos for part in sums)
    total = month_nanos + sum(adjustment.amount_nanos for adjustment in adjustments)
    return Invoice(
        tenant=tenant,
        month=month,
        drawn_at=now,
        price_version=prices.version,
        requests=sum(part.entries for part in sums if part.priced and not part.correction),
        lines=tuple(lines),
        adjustments=tuple(adjustments),
        unpriced=_unpriced(sums),
        month_nanos=month_nanos,
        total_nanos=total,
        total_usd=dollars(total),
    )


def seal(draft: Invoice, number: str, previous_hash: str | None) -> Invoice:
    """The draft as it is issued."""
    sealed = msgspec.structs.replace(draft, number=number, previous_hash=previous_hash, hash=None)
    return msgspec.structs.replace(sealed, hash=invoice_hash(sealed))


def invoice_hash(invoice: Invoice) -> str:
    """What `hash` must be."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(invoice, hash=None))).hexdigest()


def _model_lines(names: tuple[str, str, str], price: Price | None, parts: Sequence[MonthSum]) -> list[Line]:
    model, backend, upstream_model = names
    charged = sum(part.cost_nanos for part in parts)
    tokens = _tokens(parts)
    total = sum(part.input + part.output for part in parts)

    def line(kind: LineKind, tokens: int, amount: int | None, per_million: float | None = None, note: str = "") -> Line:
        return Line(
            model=model,
            backend=backend,
            upstream_model=upstream_model,
            kind=kind,
            tokens=tokens,
            usd_per_million=per_million,
            amount_nanos=amount,
            note=note,
        )

    if price is None:
        return [
            line("unlisted", total, charged, None, "as charged when the calls were made; the book lists it no more")
        ]
    lines = []
    thoughts = tokens.pop("reasoning")
    if price.reasoning is not None:
        tokens["output"] -= thoughts
        tokens["reasoning"] = thoughts
    for kind, count in tokens.items():
        if count:
            per_million = price.usd_per_million(kind)
            lines.append(line(kind, count, amount_nanos(count, per_million), per_million))
    if thoughts and price.reasoning is None:
        lines.append(line("reasoning", thoughts, None, None, "part of output"))
    difference = charged - sum(each.amount_nanos or 0 for each in lines)
    if difference:
        entries = sum(part.entries for part in parts)
        rounding = 2 * abs(difference) <= entries + len(lines)
        note = "each request was rounded" if rounding else "charged at the prices of the day, which the book gave then"
        lines.append(line("difference", 0, difference, None, note))
    return lines


def _tokens(parts: Sequence[MonthSum]) -> dict[Kind, int]:
    """By kind, without overlap, but for reasoning, which is still a part of output."""
    cached, written = sum(part.cached for part in parts), sum(part.cache_write for part in parts)
    return {
        "input": sum(part.input for part in parts) - cached - written,
        "cached": cached,
        "cache_write": written,
        "output": sum(part.output for part in parts),
        "reasoning": sum(part.reasoning for part in parts),
    }


def _corrections(sums: Sequence[MonthSum]) -> list[Line]:
    found: dict[tuple[str, str, str], list[MonthSum]] = {}
    for part in sums:
        if part.correction:
            found.setdefault((part.model, part.backend, part.upstream_model), []).append(part)
    return [
        Line(
            model=model,
            backend=backend,
            upstream_model=upstream_model,
            kind="corrections",
            tokens=sum(part.input + part.output for part in parts),
            amount_nanos=sum(part.cost_nanos for part in parts),
            note=f"{sum(part.entries for part in parts)} entries that mend others",
        )
        for (model, backend, upstream_model), parts in sorted(found.items())
    ]


def _unpriced(sums: Sequence[MonthSum]) -> tuple[Unpriced, ...]:
    found: dict[tuple[str, str], list[MonthSum]] = {}
    for part in sums:
        if not part.priced and not part.correction:
            found.setdefault((part.model, part.backend), []).append(part)
    return tuple(
        Unpriced(
            model=model,
            backend=backend,
            requests=sum(part.entries for part in parts),
            input_tokens=sum(part.input for part in parts),
            output_tokens=sum(part.output for part in parts),
        )
        for (model, backend), parts in sorted(found.items())
    )
