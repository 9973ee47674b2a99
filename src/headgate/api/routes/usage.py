"""`GET /admin/usage`: what was used and what it cost, in the shape of OpenAI's usage pages."""

import math
from datetime import UTC, datetime
from typing import Literal, get_args

from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.core.errors import BadCall
from headgate.ledger.usage import GroupBy, UsageQuery, UsageRow

DAY_S = 86_400.0
DEFAULT_DAYS = 30
MAX_ROWS = 10_000
FIELDS = ("start_time", "end_time", "group_by", "bucket_width", "limit", "tenant", "key", "model")
_GROUPS: tuple[GroupBy, ...] = get_args(GroupBy)


class UsageResult(Struct, frozen=True, kw_only=True):
    """The sums of one group. `cost_usd` covers the priced requests only; `unpriced_requests` says how many were not."""

    object: Literal["headgate.usage.result"] = "headgate.usage.result"
    group: dict[str, str]
    num_model_requests: int
    input_tokens: int
    input_cached_tokens: int
    output_tokens: int
    cost_usd: float | None
    unpriced_requests: int


class UsageBucket(Struct, frozen=True, kw_only=True):
    object: Literal["bucket"] = "bucket"
    start_time: float
    end_time: float
    results: list[UsageResult]


class UsagePage(Struct, frozen=True, kw_only=True):
    object: Literal["page"] = "page"
    data: list[UsageBucket]
    has_more: bool
    next_page: None = None


def _number(fields: dict[str, list[str]], name: str, default: float) -> float:
    if name not in fields:
        return default
    try:
        value = float(fields[name][-1])
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not 0 <= value < 1e11:
        raise BadCall(f"'{name}' must be a number of Unix seconds.", param=name, code="invalid_value")
    return value


def _limit(fields: dict[str, list[str]]) -> int:
    value = fields.get("limit", [str(MAX_ROWS)])[-1]
    if not value.isascii() or not value.isdigit() or not 1 <= len(value) <= 5 or not 1 <= int(value) <= MAX_ROWS:
        raise BadCall(f"'limit' must lie between 1 and {MAX_ROWS}.", param="limit", code="invalid_value")
    return int(value)


def read_query(fields: dict[str, list[str]], now: float) -> UsageQuery:
    """Without times: the last 30 days. Raises `BadCall`."""
    end = _number(fields, "end_time", now)
    start = _number(fields, "start_time", max(0.0, end - DEFAULT_DAYS * DAY_S))
    if start >= end:
        raise BadCall("'start_time' must lie before 'end_time'.", param="start_time", code="invalid_value")
    groups: list[GroupBy] = []
    for wanted in (part for text in fields.get("group_by", []) for part in text.split(",") if part):
        for group in _GROUPS:
            if group == wanted:
                groups.append(group)
                break
        else:
            raise BadCall(
                f"'group_by' takes {', '.join(_GROUPS)}; not '{wanted[:50]}'.", param="group_by", code="invalid_value"
            )
    width = fields.get("bucket_width", [""])[-1]
    if width not in {"", "1d"}:
        raise BadCall("'bucket_width' can be 1d, or be left out.", param="bucket_width", code="invalid_value")
    if width == "1d":
        groups.append("day")
    first = {name: fields[name][-1] for name in ("tenant", "key", "model") if name in fields}
    return UsageQuery(start=start, end=end, group_by=tuple(dict.fromkeys(groups)), **first)


def _result(row: UsageRow, by_day: bool) -> UsageResult:
    group = {name: value for name, value in row.group.items() if not (by_day and name == "day")}
    return UsageResult(
        group=group,
        num_model_requests=row.requests,
        input_tokens=row.input,
        input_cached_tokens=row.cached,
        output_tokens=row.output,
        cost_usd=row.cost_usd,
        unpriced_requests=row.unpriced,
    )


def _buckets(rows: list[UsageRow], query: UsageQuery, by_day: bool) -> list[UsageBucket]:
    if not by_day:
        return [UsageBucket(start_time=query.start, end_time=query.end, results=[_result(r, False) for r in rows])]
    days: dict[str, list[UsageResult]] = {}
    for row in rows:
        days.setdefault(row.group.get("day", ""), []).append(_result(row, True))
    out = []
    for day, results in sorted(days.items()):
        start = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
        out.append(UsageBucket(start_time=start, end_time=start + DAY_S, results=results))
    return out


async def _get(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(FIELDS)
    query, limit = read_query(fields, exchange.services.clock.now()), _limit(fields)
    rows = list(await exchange.services.usage(query))
    shown = _buckets(rows[:limit], query, "bucket_width" in fields and "1d" in fields["bucket_width"])
    await exchange.send_json(UsagePage(data=shown, has_more=len(rows) > limit))


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
