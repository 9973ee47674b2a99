"""`/v1/organization/usage/*`: OpenAI's usage pages over our ledger, so that their admin clients work unchanged.

A project is a tenant. What the ledger does not tell apart (batches, service tiers, sources) has one value for all.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar, get_args

from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.usage import BUCKETS, bad, read_limit, seconds
from headgate.core.call import Operation
from headgate.core.errors import BadCall
from headgate.ledger.accounts.questions import GROUPS_MAX, WIDTHS, Filter, UsageQuery, UsageRow, cursor, read_cursor

FIELDS = {"project_id": "tenant", "user_id": "user", "api_key_id": "key", "model": "model"}
"""Their name of a group, and ours."""
CONSTANT = ("batch", "service_tier", "api_source")
FILTERS = {"project_ids": "tenant", "user_ids": "user", "api_key_ids": "key", "models": "model"}
QUERY = ("start_time", "end_time", "bucket_width", "group_by", *FILTERS, "batch", "limit", "page")
LIMITS = {"minute": (60, 1_440), "hour": (24, 168), "day": (7, 31)}
"""Buckets on a page: by default, and at most."""
_EMBEDDINGS: tuple[Operation, ...] = ("embedding", "rerank")
_COMPLETIONS = tuple(operation for operation in get_args(Operation) if operation not in _EMBEDDINGS)

R = TypeVar("R")


class CompletionsResult(Struct, frozen=True, kw_only=True):
    object: Literal["organization.usage.completions.result"] = "organization.usage.completions.result"
    input_tokens: int
    """Cached and cache-write tokens included."""
    input_cached_tokens: int
    input_cache_write_tokens: int
    input_uncached_tokens: int
    output_tokens: int
    num_model_requests: int
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None
    batch: bool | None = None
    service_tier: str | None = None
    api_source: str | None = None


class CompletionsBucket(Struct, frozen=True, kw_only=True):
    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[CompletionsResult]


class CompletionsPage(Struct, frozen=True, kw_only=True):
    object: Literal["page"] = "page"
    data: list[CompletionsBucket]
    has_more: bool
    next_page: str | None


class EmbeddingsResult(Struct, frozen=True, kw_only=True):
    object: Literal["organization.usage.embeddings.result"] = "organization.usage.embeddings.result"
    input_tokens: int
    num_model_requests: int
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    model: str | None = None


class EmbeddingsBucket(Struct, frozen=True, kw_only=True):
    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[EmbeddingsResult]


class EmbeddingsPage(Struct, frozen=True, kw_only=True):
    object: Literal["page"] = "page"
    data: list[EmbeddingsBucket]
    has_more: bool
    next_page: str | None


class Spans(Struct, frozen=True):
    """The buckets of one page: of `width` seconds, cut to [`start`, `end`); `after` is where in the first to go on."""

    field: str
    start: int
    end: int
    limit: int
    after: tuple[str | int, ...] = ()

    @property
    def width(self) -> int:
        return WIDTHS[self.field]

    @property
    def first(self) -> int:
        return self.start // self.width

    @property
    def beyond(self) -> int:
        """The first bucket that is not on this page."""
        return min(self.first + self.limit, -(-self.end // self.width))

    def limits(self, bucket: int) -> tuple[int, int]:
        return max(self.start, bucket * self.width), min(self.end, (bucket + 1) * self.width)


def read_spans(fields: dict[str, list[str]], now: float, groups: int, limits: dict[str, tuple[int, int]]) -> Spans:
    """Raises `BadCall`. `groups` is how many there are beside the time."""
    if "start_time" not in fields:
        raise BadCall(
            "Missing required parameter: 'start_time'.", param="start_time", code="missing_required_parameter"
        )
    start, end = int(seconds(fields, "start_time", 0)), math.ceil(seconds(fields, "end_time", now))
    if start >= end:
        raise bad("start_time", "'start_time' must lie before 'end_time'.")
    width = fields.get("bucket_width", ["1d"])[-1]
    if BUCKETS.get(width) not in limits:
        known = [name for name, field in BUCKETS.items() if field in limits]
        raise bad("bucket_width", f"'bucket_width' can be {', '.join(known)}.")
    field = BUCKETS[width]
    limit = read_limit(fields, *limits[field])
    if "page" not in fields:
        return Spans(field, start, end, limit)
    for kinds in ([int], [int, int, *[str] * groups]):
        try:
            at, *after = read_cursor(fields["page"][-1], kinds)
        except ValueError:
            continue
        if isinstance(at, int) and start <= at < end:
            return Spans(field, at, end, limit, tuple(after))
    raise bad("page", "'page' is no cursor of this question; take next_page of the page before.")


def read_filters(fields: dict[str, list[str]], known: dict[str, str]) -> tuple[Filter, ...]:
    return tuple(Filter(ours, tuple(fields[theirs])) for theirs, ours in known.items() if theirs in fields)


def read_group_by(fields: dict[str, list[str]], known: Sequence[str]) -> tuple[str, ...]:
    """Their names of the groups. Raises `BadCall`."""
    wanted = [part for text in fields.get("group_by", []) for part in text.split(",") if part]
    for part in wanted:
        if part not in known:
            raise bad("group_by", f"'group_by' takes {', '.join(known)}; not '{part[:50]}'.")
    return tuple(dict.fromkeys(wanted))


def question(spans: Spans, groups: Sequence[str], filters: tuple[Filter, ...]) -> UsageQuery:
    """What to ask the ledger for a page: one row more than a page holds, to see whether there are more."""
    end = min(spans.end, spans.beyond * spans.width)
    return UsageQuery(spans.start, end, (spans.field, *groups), filters, GROUPS_MAX + 1, spans.after)


def page(
    spans: Spans, rows: Sequence[UsageRow], result: Callable[[UsageRow], R]
) -> Iterator[tuple[tuple[int, int], list[R]]]:
    """Every bucket of the page with its results, empty ones too."""
    cut = len(rows) > GROUPS_MAX
    found: dict[int, list[R]] = {}
    for row in rows[:GROUPS_MAX]:
        found.setdefault(int(row.place[0]), []).append(result(row))
    last = int(rows[GROUPS_MAX - 1].place[0]) + 1 if cut else spans.beyond
    for bucket in range(spans.first, last):
        yield spans.limits(bucket), found.get(bucket, [])


def next_page(spans: Spans, rows: Sequence[UsageRow]) -> str | None:
    """A bucket of more rows than a page holds goes on there, after the last row shown."""
    if len(rows) > GROUPS_MAX:
        place = rows[GROUPS_MAX - 1].place
        return cursor((spans.limits(int(place[0]))[0], *place))
    at = spans.beyond * spans.width
    return cursor((at,)) if at < spans.end else None


def named(row: UsageRow, groups: Sequence[str]) -> dict[str, Any]:
    """The row's groups under their names; an absent user is null."""
    return {theirs: row.group[FIELDS[theirs]] or None for theirs in groups if theirs in FIELDS}


async def _completions(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(QUERY)
    groups = read_group_by(fields, (*FIELDS, *CONSTANT))
    ours = [FIELDS[group] for group in groups if group in FIELDS]
    spans = read_spans(fields, exchange.services.clock.now(), len(ours), LIMITS)
    filters = (*read_filters(fields, FILTERS), Filter("operation", () if _only_batch(fields) else _COMPLETIONS))
    rows = await exchange.services.accounts.usage(question(spans, ours, filters))

    def result(row: UsageRow) -> CompletionsResult:
        return CompletionsResult(
            input_tokens=row.input,
            input_cached_tokens=row.cached,
            input_cache_write_tokens=row.cache_write,
            input_uncached_tokens=row.input - row.cached - row.cache_write,
            output_tokens=row.output,
            num_model_requests=row.requests,
            batch=False if "batch" in groups else None,
            service_tier="default" if "service_tier" in groups else None,
            api_source="unlabeled" if "api_source" in groups else None,
            **named(row, groups),
        )

    data = [CompletionsBucket(start_time=a, end_time=b, results=r) for (a, b), r in page(spans, rows, result)]
    more = next_page(spans, rows)
    await exchange.send_json(CompletionsPage(data=data, has_more=more is not None, next_page=more))


def _only_batch(fields: dict[str, list[str]]) -> bool:
    value = fields.get("batch", ["false"])[-1]
    if value not in {"true", "false"}:
        raise bad("batch", "'batch' is true or false.")
    return value == "true"


async def _embeddings(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(tuple(name for name in QUERY if name != "batch"))
    groups = read_group_by(fields, tuple(FIELDS))
    ours = [FIELDS[group] for group in groups]
    spans = read_spans(fields, exchange.services.clock.now(), len(ours), LIMITS)
    filters = (*read_filters(fields, FILTERS), Filter("operation", _EMBEDDINGS))
    rows = await exchange.services.accounts.usage(question(spans, ours, filters))

    def result(row: UsageRow) -> EmbeddingsResult:
        return EmbeddingsResult(input_tokens=row.input, num_model_requests=row.requests, **named(row, groups))

    data = [EmbeddingsBucket(start_time=a, end_time=b, results=r) for (a, b), r in page(spans, rows, result)]
    more = next_page(spans, rows)
    await exchange.send_json(EmbeddingsPage(data=data, has_more=more is not None, next_page=more))


ROUTES = (
    Route(
        method="GET",
        path="/v1/organization/usage/completions",
        endpoint=_completions,
        scope="admin",
        summary="Tokens and requests of chat and completions, as OpenAI's API shows them.",
        gives=CompletionsPage,
        query=QUERY,
    ),
    Route(
        method="GET",
        path="/v1/organization/usage/embeddings",
        endpoint=_embeddings,
        scope="admin",
        summary="Tokens and requests of embeddings, as OpenAI's API shows them.",
        gives=EmbeddingsPage,
        query=tuple(name for name in QUERY if name != "batch"),
    ),
)
