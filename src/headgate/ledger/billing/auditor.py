"""Compares the ledger with providers' files and, if told to, corrects it by new entries."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import msgspec
from msgspec import Struct

from headgate.core.clock import Clock
from headgate.core.errors import BadCall
from headgate.core.ids import Ids
from headgate.core.usage import Receipt
from headgate.ledger.billing import anthropic_files, openai_files
from headgate.ledger.billing.corrections import Amounts, Payer, correction, spread
from headgate.ledger.billing.provider_files import DAY_S, Parser, ProviderFile, read_text
from headgate.ledger.billing.reconcile import (
    Comparison,
    Drift,
    Ours,
    Scope,
    canonical,
    comparable,
    compare,
    iso,
    payers,
    scope,
)
from headgate.ledger.billing.store import Estimates, Judged, Store
from headgate.ledger.prices import PriceTable

PARSERS: Mapping[str, Parser] = {"openai": openai_files.parse, "anthropic": anthropic_files.parse}


class Order(Struct, frozen=True, kw_only=True):
    """What to compare, and whether to correct."""

    provider: str
    files: tuple[Path, ...]
    backend: str
    apply: bool = False
    project: str | None = None
    """Only rows of this project (workspace) of the provider's."""
    api_key: str | None = None
    assign: str | None = None
    """The tenant that pays for what the provider bills and none of ours has asked for; None: nobody."""


class Report(Struct, frozen=True, kw_only=True):
    object: str = "headgate.reconciliation"
    id: str | None
    """None where nothing was corrected."""
    provider: str
    backend: str
    files: tuple[str, ...]
    first_day: str
    last_day: str
    drifts: tuple[Drift, ...]
    """By day and model, before the corrections; those without a difference too."""
    unclaimed: tuple[Drift, ...]
    """Billed for models that none of ours used on that day: somebody else has the provider's key."""
    corrections: int
    applied: bool
    notes: tuple[str, ...]


class Auditor:
    """`prices` gives the book of the moment; `flush` ships what this process's journal still holds."""

    def __init__(
        self,
        store: Store,
        prices: Callable[[], PriceTable],
        flush: Callable[[], Awaitable[None]],
        clock: Clock,
        ids: Ids,
    ) -> None:
        self._store = store
        self._prices = prices
        self._flush = flush
        self._clock = clock
        self._ids = ids

    async def reconcile(self, order: Order) -> Report:
        """The same files again find what is left to correct: nothing, unless the ledger changed meanwhile.

        Raises `BadCall` with file, place and remedy.
        """
        files = [_chosen(read_file(path, order.provider), order) for path in order.files]
        covered, notes = scope(files, self._clock.now())
        await self._flush()
        name = self._ids.new("rec")
        prices, reports = self._prices(), []

        def judge(ours: list[Ours], estimates: Estimates) -> Judged:
            ours = comparable(files, covered, ours)
            comparison = compare(files, covered, ours, prices, order.backend)
            found = self._corrections(comparison, ours, estimates, order, name)
            report = _report(order, covered, comparison, notes, found, name)
            reports.append(report)
            row = {
                "id": name,
                "applied_at": self._clock.now(),
                "provider": order.provider,
                "backend": order.backend,
                "corrections": len(found),
                "body": msgspec.json.encode(report).decode(),
            }
            return Judged(corrections=tuple(found), row=row)

        work = self._store.correct if order.apply else self._store.drifts
        await work(order.backend, covered, judge)
        return reports[-1]

    def _corrections(
        self, comparison: Comparison, ours: Sequence[Ours], estimates: Estimates, order: Order, name: str
    ) -> list[Receipt]:
        used: dict[tuple[str, str], list[Ours]] = {}
        for part in ours:
            used.setdefault((iso(part.day), canonical(part.upstream_model)), []).append(part)
        entries: list[Receipt] = []
        guesses: tuple[str | None, dict[str, list[Payer]]] = (None, {})
        for drift in comparison.drifts:
            if not drift.difference or drift.day is None:
                continue
            if guesses[0] != drift.day:
                guesses = (drift.day, estimates(_number(drift.day)))
            model = canonical(drift.model)
            tenants = payers(used.get((drift.day, model), ())) or _assigned(drift, order)
            if tenants:
                parts = spread(drift.difference, guesses[1].get(model, ()), tenants)
                for payer, amounts in parts:
                    entries.append(correction(payer, amounts, self._ids.new, name, order.backend, money=drift.money))
        return entries


def read_file(path: Path, provider: str) -> ProviderFile:
    """Raises `BadCall` with file, place and remedy."""
    if provider not in PARSERS:
        raise BadCall(f"'{provider[:50]}' is no provider whose files are known; use {' or '.join(PARSERS)}.")
    return PARSERS[provider](str(path), read_text(path))


def _chosen(file: ProviderFile, order: Order) -> ProviderFile:
    rows = tuple(
        row for row in file.rows if order.project in {None, row.project} and order.api_key in {None, row.api_key}
    )
    if file.rows and not rows:
        raise BadCall(
            f"{file.name}: no row is of that project and API key; look at the ids in the file.", code="bad_file"
        )
    return msgspec.structs.replace(file, rows=rows)


def _report(
    order: Order, covered: Scope, comparison: Comparison, notes: Sequence[str], found: Sequence[Receipt], name: str
) -> Report:
    unclaimed = [drift for drift in comparison.drifts if drift.difference and not drift.our_requests and not drift.ours]
    applied = order.apply and bool(found)
    return Report(
        id=name if applied else None,
        provider=order.provider,
        backend=order.backend,
        files=tuple(str(path) for path in order.files),
        first_day=iso(covered.first),
        last_day=iso(covered.end - 1),
        drifts=comparison.drifts,
        unclaimed=tuple(unclaimed) if order.assign is None else (),
        corrections=len(found),
        applied=applied,
        notes=(*notes, *comparison.notes),
    )


def _assigned(drift: Drift, order: Order) -> list[Payer]:
    if order.assign is None or drift.day is None:
        return []
    at = float(_number(drift.day) * DAY_S + DAY_S // 2)
    return [
        Payer(
            tenant=order.assign,
            used=Amounts(),
            operation="chat",
            model=drift.model,
            upstream_model=drift.model,
            started_at=at,
        )
    ]


def _number(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)).days
