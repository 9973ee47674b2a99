"""`GET /admin/usage`: what was used and what it cost, in the shape of OpenAI's usage pages."""

import math
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.core.errors import BadCall
from headgate.ledger.accounts.questions import (
    GROUPS,
    GROUPS_MAX,
    TAG,
    WIDTHS,
    Filter,
    UsageQuery,
    UsageRow,
    check_field,
    cursor,
    read_cursor,
)

DEFAULT_DAYS = 30
FILTERS = tuple(field for field in GROUPS if field not in WIDTHS)
SPAN = ("start_time", "end_time", *FILTERS, "tag")
"""Which entries are meant: every question about the ledger takes these."""
FIELDS = (*SPAN, "group_by", "bucket_width", "limit", "page")
BUCKETS = {"1m": "minute", "1h": "hour", "1d": "day"}


class UsageResult(Struct, frozen=True, kw_only=True):
    """The sums of one group. `cost_usd` covers the priced requests only; `unpriced_requests` says how many were not."""

    object: Literal["headgate.usage.result"] = "headgate.usage.result"
    group: dict[str, str]
    num_model_requests: int
    input_tokens: int
    input_cached_tokens: int
    input_cache_write_tokens: int
    output_tokens: int
    output_reasoning_tokens: int
    cost_usd: float | None
    cost_nanos: int | None
    """The cost in whole nanodollars: exact, where `cost_usd` is rounded as every float is."""
    unpriced_requests: int
    estimated_requests: int
    """Whose tokens we counted, because the backend gave no figure."""
    corrections: int
    """Entries that mend others; they are in the sums and are no requests."""


class UsageBucket(Struct, frozen=True, kw_only=True):
    object: Literal["bucket"] = "bucket"
    start_time: float
    end_time: float
    results: list[UsageResult]


class UsagePage(Struct, frozen=True, kw_only=True):
    object: Literal["page"] = "page"
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None = None


def bad(param: str, message: str) -> BadCall:
    return BadCall(message, param=param, code="invalid_value")


def seconds(fields: dict[str, list[str]], name: str, default: float) -> float:
    """A time of the query. Raises `BadCall`."""
    if name not in fields:
        return default
    try:
        value = float(fields[name][-1])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not 0 <= value < 1e11:
        raise bad(name, f"'{name}' must be a number of Unix seconds.")
    return value


def read_limit(fields: dict[str, list[str]], default: int, most: int) -> int:
    """Raises `BadCall`."""
    value = fields.get("limit", [str(default)])[-1]
    if not value.isascii() or not value.isdigit() or not 1 <= len(value) <= 5 or not 1 <= int(value) <= most:
        raise bad("limit", f"'limit' must lie between 1 and {most}.")
    return int(value)


def read_span(fields: dict[str, list[str]], now: float) -> UsageQuery:
    """Times and filters; without times, the last 30 days. A filter that is repeated lets each of its values pass."""
    end = seconds(fields, "end_time", now)
    start = seconds(fields, "start_time", max(0.0, end - DEFAULT_DAYS * WIDTHS["day"]))
    if start >= end:
        raise bad("start_time", "'start_time' must lie before 'end_time'.")
    filters = [Filter(name, tuple(fields[name])) for name in FILTERS if name in fields]
    tags: dict[str, list[str]] = {}
    for text in fields.get("tag", []):
        name, sign, value = text.partition(":")
        if not sign or not name:
            raise bad("tag", "'tag' is written NAME:VALUE.")
        tags.setdefault(TAG + name, []).append(value)
    filters += [Filter(_field("tag", name, times=False), tuple(values)) for name, values in tags.items()]
    return UsageQuery(start=start, end=end, filters=tuple(filters))


def read_groups(fields: dict[str, list[str]]) -> tuple[str, ...]:
    """Raises `BadCall` for what cannot be grouped by."""
    wanted = [part for text in fields.get("group_by", []) for part in text.split(",") if part]
    return tuple(dict.fromkeys(_field("group_by", part, times=True) for part in wanted))


def _field(param: str, name: str, *, times: bool) -> str:
    try:
        return check_field(name, times=times)
    except ValueError as error:
        raise bad(param, f"'{param}': {error}.") from None


def _page(fields: dict[str, list[str]], groups: Sequence[str]) -> tuple[str | int, ...]:
    if "page" not in fields:
        return ()
    try:
        return read_cursor(fields["page"][-1], [int if group in WIDTHS else str for group in groups])
    except ValueError as error:
        raise bad("page", f"{error}.") from None


def _width(fields: dict[str, list[str]]) -> str | None:
    width = fields.get("bucket_width", [""])[-1]
    if width and width not in BUCKETS:
        raise bad("bucket_width", "'bucket_width' can be 1m, 1h or 1d, or be left out.")
    return BUCKETS.get(width)


def _result(row: UsageRow, bucket: str | None) -> UsageResult:
    return UsageResult(
        group={name: value for name, value in row.group.items() if name != bucket},
        num_model_requests=row.requests,
        input_tokens=row.input,
        input_cached_tokens=row.cached,
        input_cache_write_tokens=row.cache_write,
        output_tokens=row.output,
        output_reasoning_tokens=row.reasoning,
        cost_usd=row.cost_usd,
        cost_nanos=row.cost_nanos,
        unpriced_requests=row.unpriced,
        estimated_requests=row.estimated,
        corrections=row.corrections,
    )


def _buckets(rows: Sequence[UsageRow], query: UsageQuery, bucket: str | None) -> list[UsageBucket]:
    """Rows come in the order of their buckets, which are the first of their groups."""
    if bucket is None:
        return [UsageBucket(start_time=query.start, end_time=query.end, results=[_result(row, None) for row in rows])]
    spans: dict[int, list[UsageResult]] = {}
    for row in rows:
        spans.setdefault(int(row.place[0]), []).append(_result(row, bucket))
    width = WIDTHS[bucket]
    return [
        UsageBucket(start_time=float(span * width), end_time=float((span + 1) * width), results=results)
        for span, results in spans.items()
    ]


async def _get(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(FIELDS)
    bucket, limit = _width(fields), read_limit(fields, GROUPS_MAX, GROUPS_MAX)
    groups = read_groups(fields)
    if bucket is not None:
        groups = tuple(dict.fromkeys((bucket, *groups)))
    span = read_span(fields, exchange.services.clock.now())
    query = msgspec.structs.replace(
        span, group_by=groups, limit=limit + 1, after=_page(fields, groups) if groups else ()
    )
    rows = await exchange.services.accounts.usage(query)
    more = len(rows) > limit
    shown = _buckets(rows[:limit], query, bucket)
    await exchange.send_json(
        UsagePage(data=shown, has_more=more, next_page=cursor(rows[limit - 1].place) if more else None)
    )


ROUTES = (
    Route(
        method="GET",
        path="/admin/usage",
        endpoint=_get,
        scope="admin",
        summary="Requests, tokens and cost, summed by the groups you name.",
        gives=UsagePage,
        query=FIELDS,
    ),
)
