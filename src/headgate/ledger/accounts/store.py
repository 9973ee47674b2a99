"""The SQL of the questions: sums by group, sums for budgets, entries in order.

Sums are exact whatever the numbers: SQLite's `sum` fails beyond 64 bits, so the upper and the lower half of each
number are summed apart and put together here.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import TAG, WIDTHS, SpendQuestion, UsageQuery, UsageRow
from headgate.storage.sql import tables_ledger as tables
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import plain

_LEDGER = tables.ledger.c
_HALF = 32
CALL_MAX = 1_000
"""Entries of one call that are shown."""
_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    "tenant": _LEDGER.tenant,
    "user": sa.func.coalesce(_LEDGER.user_id, ""),
    "key": _LEDGER.key_id,
    "model": _LEDGER.model,
    "backend": _LEDGER.backend,
    "session": sa.func.coalesce(_LEDGER.session, ""),
    "operation": _LEDGER.operation,
    "outcome": _LEDGER.outcome,
}
_TOKENS = {
    "input": _LEDGER.input_tokens,
    "cached": _LEDGER.cached_tokens,
    "cache_write": _LEDGER.cache_write_tokens,
    "output": _LEDGER.output_tokens,
    "reasoning": _LEDGER.reasoning_tokens,
}


class Store:
    """Every method is one transaction on one snapshot. Raises `Overloaded` where the database cannot be reached."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def usage(self, query: UsageQuery) -> list[UsageRow]:
        """At most `query.limit` rows, ordered by their groups."""
        return await self._sql.read(lambda db: _usage(db, query))

    async def spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        """Nanodollars and tokens per question. Entries without a price count their tokens and no money."""
        return await self._sql.read(lambda db: _spent(db, questions))

    async def entries(self, query: UsageQuery, after: tuple[float, str] | None, limit: int) -> list[Receipt]:
        """The entries that the query's times and filters leave, oldest first, from after the given (time, id) on."""
        return await self._sql.read(lambda db: _entries(db, query, after, limit))

    async def call(self, call_id: str) -> tuple[list[Receipt], list[Receipt]]:
        """A call's entries in the order of their attempts, and those that correct them; `CALL_MAX` of each at most."""
        return await self._sql.read(lambda db: _call(db, plain(call_id)))


def exact(name: str, number: sa.ColumnElement[int]) -> list[sa.ColumnElement[Any]]:
    """The two columns of an exact sum; `whole` reads them."""
    return [
        sa.func.coalesce(sa.func.sum(number.bitwise_rshift(sa.literal_column(str(_HALF), sa.Integer))), 0).label(
            f"{name}_high"
        ),
        sa.func.coalesce(sa.func.sum(number.bitwise_and(2**_HALF - 1)), 0).label(f"{name}_low"),
    ]


def whole(row: RowMapping, name: str) -> int:
    return (int(row[f"{name}_high"]) << _HALF) + int(row[f"{name}_low"])


def count_if(condition: sa.ColumnElement[bool], name: str) -> sa.ColumnElement[int]:
    return sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0).label(name)


def column(db: Connection, field: str) -> sa.ColumnElement[Any]:
    """What a group or filter stands for; absent texts are empty, times whole minutes, hours or days from 1970."""
    if field in WIDTHS:
        spans = _LEDGER.started_at / WIDTHS[field]
        # A cast rounds in PostgreSQL and cuts in SQLite, which in turn may be built without floor().
        return sa.cast(sa.func.floor(spans) if db.dialect.name == "postgresql" else spans, sa.BigInteger)
    if field.startswith(TAG):
        name = plain(field.removeprefix(TAG))
        # SQLite compares a name with what is stored letter by letter, and that is JSON in ASCII.
        name = json.dumps(name)[1:-1] if db.dialect.name == "sqlite" else name
        return sa.func.coalesce(_LEDGER.tags[name].as_string(), "")
    return _COLUMNS[field]


def conditions(db: Connection, query: UsageQuery) -> list[sa.ColumnElement[bool]]:
    """What an entry must fulfil to be in the query's answer."""
    found = [_LEDGER.started_at >= float(query.start), _LEDGER.started_at < float(query.end)]
    for wanted in query.filters:
        values = [plain(value) for value in wanted.values]
        bare = _LEDGER.user_id if wanted.field == "user" else _LEDGER.session if wanted.field == "session" else None
        # The bare column where it will do: an index is on that.
        found.append((column(db, wanted.field) if bare is None or "" in values else bare).in_(values))
    return found


def _usage(db: Connection, query: UsageQuery) -> list[UsageRow]:
    groups = [column(db, field) for field in query.group_by]
    correction = _LEDGER.outcome == "correction"
    statement = sa.select(
        *(group.label(f"group_{place}") for place, group in enumerate(groups)),
        count_if(~correction, "requests"),
        count_if(correction, "corrections"),
        count_if(_LEDGER.cost_nanos.is_(None) & ~correction, "unpriced"),
        count_if(_LEDGER.estimated & ~correction, "estimated"),
        sa.func.count(_LEDGER.cost_nanos).label("priced"),
        *exact("cost", _LEDGER.cost_nanos),
        *(half for name, number in _TOKENS.items() for half in exact(name, number)),
    ).where(*conditions(db, query))
    if groups:
        if query.after:
            statement = statement.where(sa.tuple_(*groups) > sa.tuple_(*_literals(groups, query.after)))
        statement = statement.group_by(*groups).order_by(*groups).limit(query.limit)
    return [_usage_row(row, query.group_by) for row in db.execute(statement).mappings()]


def _literals(groups: Sequence[sa.ColumnElement[Any]], values: Sequence[str | int]) -> list[sa.ColumnElement[Any]]:
    return [
        sa.literal(plain(value) if isinstance(value, str) else value, group.type)
        for group, value in zip(groups, values, strict=True)
    ]


def _usage_row(row: RowMapping, fields: Sequence[str]) -> UsageRow:
    place = tuple(row[f"group_{number}"] for number in range(len(fields)))
    return UsageRow(
        group={field: written(field, value) for field, value in zip(fields, place, strict=True)},
        requests=int(row["requests"]),
        cost_nanos=whole(row, "cost") if row["priced"] else None,
        unpriced=int(row["unpriced"]),
        estimated=int(row["estimated"]),
        corrections=int(row["corrections"]),
        place=place,
        **{name: whole(row, name) for name in _TOKENS},
    )


def written(field: str, value: Any) -> str:
    """Times are counted from 1970 in SQL and written `2026-11-21`, `2026-11-21T05` or `2026-11-21T05:04` outside."""
    if field not in WIDTHS:
        return str(value)
    at = datetime.fromtimestamp(int(value) * WIDTHS[field], UTC).isoformat()
    return at[: {"day": 10, "hour": 13}.get(field, 16)]


_Scope = tuple[tuple[float, float, float | None], str | None, str | None, str | None, str | None]


def _spent(db: Connection, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
    """Questions that differ in nothing but the model share a statement."""
    known: dict[tuple[_Scope, str], list[tuple[str, int, int]]] = {}
    answers = []
    for question in questions:
        times = question.start, question.end, question.ended_by
        scope = (times, question.tenant, question.user, question.key, question.session)
        by_model = question.model != "*"
        prefix = _prefix(question.model)
        models = known.get((scope, prefix if by_model else "*"))
        if models is None:
            models = known[scope, prefix if by_model else "*"] = _spent_by_model(db, scope, by_model, prefix)
        fitting = [entry for entry in models if not by_model or fnmatchcase(entry[0], question.model)]
        answers.append((sum(nanos for _, nanos, _ in fitting), sum(tokens for _, _, tokens in fitting)))
    return answers


def _prefix(pattern: str) -> str:
    """What every model of a pattern begins with. SQL sorts out by that, and `fnmatchcase` does the rest, as in
    policies: SQL's own patterns differ between databases in what letters and signs mean."""
    signs = [pattern.find(sign) for sign in "*?["]
    return plain(pattern[: min((place for place in signs if place >= 0), default=len(pattern))])


def _spent_by_model(db: Connection, scope: _Scope, by_model: bool, prefix: str) -> list[tuple[str, int, int]]:
    (start, end, ended_by), *who = scope
    model = _LEDGER.model if by_model else sa.literal_column("''", sa.Text)
    statement = sa.select(
        model.label("model"),
        *exact("cost", _LEDGER.cost_nanos),
        *exact("input", _LEDGER.input_tokens),
        *exact("output", _LEDGER.output_tokens),
    )
    others: list[sa.ColumnElement[Any]] = [_LEDGER.started_at, _LEDGER.tenant, _LEDGER.user_id, _LEDGER.key_id]
    if who[-1]:
        # A session has few entries. Planners that know no better go by tenant or time all the same, so those are asked
        # for in a way that no index answers.
        others = [sa.func.coalesce(field, field, type_=field.type) for field in others]
    at, *fields = others
    statement = statement.where(at >= float(start), at < float(end))
    if ended_by is not None:
        statement = statement.where(_LEDGER.started_at + _LEDGER.duration_ms / 1000 <= ended_by)
    for wanted, field in zip(who, (*fields, _LEDGER.session), strict=True):
        if wanted is not None:
            statement = statement.where(field == plain(wanted) if wanted else sa.func.coalesce(field, "") == "")
    if prefix:
        statement = statement.where(sa.func.substr(_LEDGER.model, 1, len(prefix)) == prefix)
    if by_model:
        statement = statement.group_by(_LEDGER.model)
    return [
        (row["model"], whole(row, "cost"), whole(row, "input") + whole(row, "output"))
        for row in db.execute(statement).mappings()
    ]


def _entries(db: Connection, query: UsageQuery, after: tuple[float, str] | None, limit: int) -> list[Receipt]:
    statement = sa.select(tables.ledger).where(*conditions(db, query))
    if after is not None:
        # Said twice: a plain bound on the time is what an index helps with.
        statement = statement.where(
            _LEDGER.started_at >= after[0],
            sa.tuple_(_LEDGER.started_at, _LEDGER.id)
            > sa.tuple_(sa.literal(after[0], _LEDGER.started_at.type), sa.literal(after[1], sa.Text)),
        )
    statement = statement.order_by(_LEDGER.started_at, _LEDGER.id).limit(limit)
    return [entry(row) for row in db.execute(statement).mappings()]


def _call(db: Connection, call_id: str) -> tuple[list[Receipt], list[Receipt]]:
    def read(*wanted: sa.ColumnElement[bool]) -> list[Receipt]:
        statement = sa.select(tables.ledger).where(*wanted).limit(CALL_MAX)
        statement = statement.order_by(_LEDGER.attempt, _LEDGER.started_at, _LEDGER.id)
        return [entry(row) for row in db.execute(statement).mappings()]

    attempts = read(_LEDGER.call_id == call_id, _LEDGER.outcome != "correction")
    return attempts, read(_LEDGER.corrects.in_([attempt.id for attempt in attempts])) if attempts else []


def entry(row: RowMapping) -> Receipt:
    """A row of the ledger as the receipt it was."""
    return Receipt(
        id=row["id"],
        call_id=row["call_id"],
        attempt=row["attempt"],
        tenant=row["tenant"],
        key_id=row["key_id"],
        operation=row["operation"],
        model=row["model"],
        backend=row["backend"],
        upstream_model=row["upstream_model"],
        started_at=row["started_at"],
        duration_ms=row["duration_ms"],
        outcome=row["outcome"],
        status=row["status"],
        code=row["code"],
        ttft_ms=row["ttft_ms"],
        stream=bool(row["stream"]),
        usage=Usage(
            input=row["input_tokens"],
            cached=row["cached_tokens"],
            cache_write=row["cache_write_tokens"],
            output=row["output_tokens"],
            reasoning=row["reasoning_tokens"],
            estimated=bool(row["estimated"]),
        ),
        cost_nanos=row["cost_nanos"],
        price_version=row["price_version"],
        user=row["user_id"],
        tags=row["tags"],
        session=row["session"],
        corrects=row["corrects"],
        replica=row["replica"],
        reason=row["reason"] or "first",
        begun_ms=row["begun_ms"],
        queue_ms=row["queue_ms"],
        overhead_ms=row["overhead_ms"],
        passed_over=row["passed_over"],
    )
