"""Our ledger against a provider's figures, by day and model: where they drift, and by how much.

Days count that the files cover from midnight to midnight and that are over. Models are the same where their names are,
dates and `-latest` at the end left out: providers bill `gpt-4o-2024-08-06` where `gpt-4o` was asked for.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from msgspec import Struct

from headgate.core.errors import BadCall
from headgate.core.policy import NANOS
from headgate.core.usage import Usage
from headgate.ledger.billing.corrections import Amounts, Payer
from headgate.ledger.billing.provider_files import DAY_S, Billed, ProviderFile
from headgate.ledger.prices import PriceTable

DAYS_MAX = 400
_DATED = re.compile(r"(-\d{4}-\d{2}-\d{2}|-\d{8}|-latest)$")


class Ours(Struct, frozen=True, kw_only=True):
    """What one tenant used of a model on a day, corrections included."""

    day: int
    tenant: str
    model: str
    """The one asked for."""
    upstream_model: str
    operation: str
    requests: int
    used: Amounts
    reasoning: int
    """The part of output that was thought; providers' files do not tell it apart."""
    unpriced: int


class Drift(Struct, frozen=True, kw_only=True):
    """One model on one day, or all days of a report together."""

    day: str | None
    """`2026-11-21`; None for all days."""
    model: str
    ours: Amounts
    theirs: Amounts
    """Where a file says nothing of tokens, or of money, ours stand here."""
    our_requests: int
    their_requests: int
    money: bool
    """Whether money was compared: billed by the provider, or its tokens priced by our book."""

    @property
    def difference(self) -> Amounts:
        """What must be added to ours."""
        return self.theirs - self.ours


class Comparison(Struct, frozen=True, kw_only=True):
    drifts: tuple[Drift, ...]
    """Every model and day of either side, equal ones too."""
    notes: tuple[str, ...]


class Scope(Struct, frozen=True, kw_only=True):
    """Which days and operations the files cover."""

    first: int
    end: int
    operations: tuple[str, ...]
    tokens: bool
    money: bool


def canonical(model: str) -> str:
    """`gpt-4.1-2025-04-14` and `GPT 4.1` are both `gpt-4-1`."""
    return _DATED.sub("", re.sub(r"[\s._]+", "-", model.strip().lower()))


def scope(files: Sequence[ProviderFile], now: float) -> tuple[Scope, list[str]]:
    """What all files together can be compared over, with notes on what was left out. Raises `BadCall`."""
    today = int(now // DAY_S)
    first = max(file.first for file in files)
    end = min(*(file.end for file in files), today) if len(files) > 1 else min(files[0].end, today)
    names = ", ".join(file.name for file in files)
    if end <= first:
        raise BadCall(
            f"{names}: no day that is over and that every file covers from midnight to midnight (UTC); "
            "export whole days",
            code="bad_file",
        )
    if end - first > DAYS_MAX:
        raise BadCall(f"{names}: {end - first} days; compare {DAYS_MAX} at most at once", code="bad_file")
    notes = []
    if any(file.first < first or file.end > end for file in files):
        notes.append(f"compared are {iso(first)} to {iso(end - 1)}: the days that are over and in every file")
    usage = [file for file in files if file.sort == "usage"]
    costs = [file for file in files if file.sort == "costs"]
    if len({file.operations for file in usage}) < len(usage) or len(costs) > 1:
        raise BadCall(f"{names}: two files of the same kind; give one of each, or join their pages", code="bad_file")
    operations = () if costs and not usage else tuple(sorted({name for file in usage for name in file.operations}))
    return Scope(first=first, end=end, operations=operations, tokens=bool(usage), money=bool(costs)), notes


def comparable(files: Sequence[ProviderFile], covered: Scope, ours: Sequence[Ours]) -> list[Ours]:
    """Without what passed through to endpoints that usage files do not cover, such as those of images: which they are
    shows by the models that the files name. Raises `BadCall` where we used something and the files name none of it.
    """
    theirs = {canonical(row.model) for file in files for row in file.rows if covered.first <= row.day < covered.end}
    found = [
        part
        for part in ours
        if part.operation != "passthrough" or not covered.operations or canonical(part.upstream_model) in theirs
    ]
    if found and theirs.isdisjoint(canonical(part.upstream_model) for part in found):
        raise BadCall(
            f"{', '.join(file.name for file in files)}: no model that was used on this backend on those days. Made "
            "equal to that, all its use would be taken away; look at the backend, the provider and the file.",
            code="bad_file",
        )
    return found


def compare(
    files: Sequence[ProviderFile], covered: Scope, ours: Sequence[Ours], prices: PriceTable, backend: str
) -> Comparison:
    """Pure: the same files, entries and prices give the same answer."""
    theirs = _theirs(files, covered)
    mine: dict[tuple[int, str], list[Ours]] = {}
    for part in ours:
        mine.setdefault((part.day, canonical(part.upstream_model)), []).append(part)
    notes = []
    other = sum((row.usd for row in theirs.pop((0, ""), ([], ""))[0]), Decimal(0))
    if covered.tokens and covered.money:
        known = {canonical(row.model) for file in files if file.sort == "usage" for row in file.rows}
        for day, name in [key for key in theirs if key not in mine and key[1] not in known]:
            other += sum((row.usd for row in theirs.pop((day, name))[0]), Decimal(0))
    if other:
        notes.append(f"${other:f} are billed for what is no model of these files, and were not compared")
    drifts = []
    for day, name in sorted({*theirs, *mine}):
        rows, shown = theirs.get((day, name), ([], ""))
        parts = mine.get((day, name), [])
        model = shown or parts[0].upstream_model
        drifts.append(_drift((day, model), rows, parts, covered, prices, backend))
    return Comparison(drifts=tuple(drifts), notes=tuple(notes))


def _theirs(files: Sequence[ProviderFile], covered: Scope) -> dict[tuple[int, str], tuple[list[Billed], str]]:
    """Rows by day and canonical model, with the name they give it; money without a model under (0, "")."""
    found: dict[tuple[int, str], tuple[list[Billed], str]] = {}
    for file in files:
        for row in file.rows:
            if covered.first <= row.day < covered.end:
                key = (row.day, canonical(row.model)) if row.model else (0, "")
                found.setdefault(key, ([], row.model))[0].append(row)
    return found


def _drift(
    what: tuple[int, str],
    rows: Sequence[Billed],
    parts: Sequence[Ours],
    covered: Scope,
    prices: PriceTable,
    backend: str,
) -> Drift:
    day, model = what
    used = total(part.used for part in parts)
    billed = used
    if covered.tokens:
        billed = Amounts(
            input=sum(row.input for row in rows),
            cached=sum(row.cached for row in rows),
            cache_write=sum(row.cache_write for row in rows),
            output=sum(row.output for row in rows),
            nanos=used.nanos,
        )
    money: int | None
    if covered.money:
        money = int((sum((row.usd for row in rows), Decimal(0)) * NANOS).to_integral_value())
    else:
        money = _priced(day, rows, parts, prices, backend)
    requests = sum(part.requests for part in parts)
    rounding = billed == used and money is not None and abs(money - used.nanos) <= requests + len(rows)
    nanos = used.nanos if money is None or rounding else money
    return Drift(
        day=iso(day),
        model=model,
        ours=used,
        theirs=billed + Amounts(nanos=nanos - billed.nanos),
        our_requests=requests,
        their_requests=sum(row.requests for row in rows),
        money=money is not None,
    )


def _priced(day: int, rows: Sequence[Billed], parts: Sequence[Ours], prices: PriceTable, backend: str) -> int | None:
    """What their tokens cost by our book; None where it lists neither their name of the model nor ours.

    As much of their output is reasoning as of ours: where that has a price of its own, we alone know how much it was.
    """
    nanos, thoughts = 0, max(0, sum(part.reasoning for part in parts))
    for row in rows:
        names = (row.model, *(part.upstream_model for part in parts))
        found = (prices.find(backend, name, float(day * DAY_S)) for name in names)
        price = next((each for each in found if each is not None), None)
        if price is None:
            return None
        reasoning = min(thoughts, row.output)
        thoughts -= reasoning
        nanos += price.cost_nanos(Usage(row.input, row.cached, row.cache_write, row.output, reasoning), row.hour_writes)
    return nanos


def by_model(drifts: Iterable[Drift]) -> list[Drift]:
    """All days of a model together."""
    found: dict[str, list[Drift]] = {}
    for drift in drifts:
        found.setdefault(canonical(drift.model), []).append(drift)
    return [
        Drift(
            day=None,
            model=days[0].model,
            ours=total(drift.ours for drift in days),
            theirs=total(drift.theirs for drift in days),
            our_requests=sum(drift.our_requests for drift in days),
            their_requests=sum(drift.their_requests for drift in days),
            money=all(drift.money for drift in days),
        )
        for _, days in sorted(found.items())
    ]


def total(parts: Iterable[Amounts]) -> Amounts:
    whole = Amounts()
    for part in parts:
        whole += part
    return whole


def payers(parts: Sequence[Ours]) -> list[Payer]:
    """A payer per tenant: the model and operation it used most stand for all."""
    found: dict[str, list[Ours]] = {}
    for part in parts:
        found.setdefault(part.tenant, []).append(part)
    out = []
    for tenant, uses in sorted(found.items()):
        most = max(uses, key=lambda each: each.used.tokens)
        out.append(
            Payer(
                tenant=tenant,
                used=total(each.used for each in uses),
                operation=most.operation,
                model=most.model,
                upstream_model=most.upstream_model,
                started_at=float(most.day * DAY_S + DAY_S // 2),
            )
        )
    return out


def iso(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
