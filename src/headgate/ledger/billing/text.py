"""Invoices as people read them, and as CSV."""

from datetime import UTC, datetime

from headgate.core.policy import NANOS
from headgate.ledger.accounts.export import csv_line, usd
from headgate.ledger.billing.invoices import Invoice, Line, LineKind, dollars

WIDTH = 88
_NAMES: dict[LineKind, str] = {
    "input": "input",
    "cached": "input, cached",
    "cache_write": "input, written to the cache",
    "output": "output",
    "reasoning": "output, reasoning",
    "unlisted": "all tokens",
    "difference": "difference",
    "corrections": "corrections",
}
CSV_HEAD = (
    "number", "tenant", "month", "part", "model", "backend", "upstream_model", "tokens", "usd_per_million",
    "amount_nanos", "amount_usd", "note",
)  # fmt: skip


def invoice_text(invoice: Invoice) -> str:
    """A page, `WIDTH` characters wide. The total is exact; so is every amount."""
    drawn = datetime.fromtimestamp(invoice.drawn_at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    title = f"Invoice {invoice.number}" if invoice.number else "Draft of an invoice"
    out = [
        _both(title, f"{'issued' if invoice.number else 'as of'} {drawn}"),
        _both(f"Project {printable(invoice.tenant)}", invoice.month),
        "=" * WIDTH,
    ]
    models: dict[tuple[str, str, str], list[Line]] = {}
    for line in invoice.lines:
        models.setdefault((line.model, line.backend, line.upstream_model), []).append(line)
    for (model, backend, upstream_model), lines in models.items():
        where = "" if upstream_model in {model, ""} else f", as {printable(upstream_model)}"
        out += ["", _both(f"{printable(model)}  ({printable(backend)}{where})", _sum(lines))]
        out += [_line(line) for line in lines]
    out += ["", "-" * WIDTH]
    if invoice.adjustments:
        out.append(_both(f"{invoice.month}", "$" + dollars(invoice.month_nanos)))
        for each in invoice.adjustments:
            out.append(_both(f"Changes to {each.month} since {each.number}", "$" + dollars(each.amount_nanos)))
    out.append(_both(f"Total of {invoice.requests:,} requests", "$" + dollars(invoice.total_nanos)))
    if invoice.unpriced:
        out += ["", "Not in the total, because the price book has no price for it:"]
        for gap in invoice.unpriced:
            tokens = gap.input_tokens + gap.output_tokens
            out.append(
                _both(
                    f"  {printable(gap.model)}  ({printable(gap.backend)})",
                    f"{gap.requests:,} requests, {tokens:,} tokens",
                )
            )
    if invoice.hash:
        out += ["", f"SHA-256 {invoice.hash}"]
    return "\n".join(out) + "\n"


def invoice_csv(invoice: Invoice) -> bytes:
    """A row per line, adjustment and gap, then the total."""
    head = (invoice.number, invoice.tenant, invoice.month)
    rows: list[tuple[object, ...]] = [CSV_HEAD]
    for line in invoice.lines:
        names = (line.model, line.backend, line.upstream_model)
        amount = (line.amount_nanos, usd(line.amount_nanos))
        rows.append((*head, line.kind, *names, line.tokens, line.usd_per_million, *amount, line.note))
    for each in invoice.adjustments:
        note = f"changes to {each.month} since {each.number}"
        rows.append((*head, "adjustment", *[None] * 5, each.amount_nanos, usd(each.amount_nanos), note))
    for gap in invoice.unpriced:
        tokens = gap.input_tokens + gap.output_tokens
        note = f"{gap.requests} requests without a price, in no sum"
        rows.append((*head, "unpriced", gap.model, gap.backend, None, tokens, None, None, None, note))
    rows.append((*head, "total", *[None] * 5, invoice.total_nanos, usd(invoice.total_nanos), None))
    return b"".join(csv_line(row) for row in rows)


def _line(line: Line) -> str:
    tokens = f"{line.tokens:,}" if line.kind != "difference" else ""
    price = "" if line.usd_per_million is None else f"x ${_price(line.usd_per_million)} per million"
    left = f"  {_NAMES[line.kind]:<28}{tokens:>16}  {price}"
    amount = "" if line.amount_nanos is None else "$" + dollars(line.amount_nanos)
    return _both(left.rstrip(), amount) + (f"\n      {line.note}" if line.note else "")


def _sum(lines: list[Line]) -> str:
    return "" if len(lines) == 1 else "$" + dollars(sum(line.amount_nanos or 0 for line in lines))


def _price(per_million: float) -> str:
    return dollars(round(per_million * NANOS))


def _both(left: str, right: str) -> str:
    """One to each margin; what does not fit is not cut."""
    return f"{left}{right:>{max(WIDTH - len(left), len(right) + 2)}}".rstrip() if right else left


def printable(name: str) -> str:
    """Names come from callers: nothing in them may move the cursor of a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
