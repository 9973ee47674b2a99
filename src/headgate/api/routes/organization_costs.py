"""`/v1/organization/costs`: OpenAI's costs page over our ledger, so that their admin clients work unchanged.

A line item is a model. Attempts without a price add their tokens and no money: `/admin/usage` says how many there are.
"""

from typing import Literal

from msgspec import Struct

from headgate.api.application import Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization_usage import (
    FIELDS,
    named,
    next_page,
    page,
    question,
    read_filters,
    read_group_by,
    read_spans,
)
from headgate.core.policy import NANOS
from headgate.ledger.accounts.questions import UsageRow

GROUPS = {"project_id": "tenant", "user_id": "user", "line_item": "model", "api_key_id": "key"}
FILTERS = {"project_ids": "tenant", "line_items": "model", "api_key_ids": "key"}
QUERY = ("start_time", "end_time", "bucket_width", "group_by", *FILTERS, "limit", "page")
LIMITS = {"day": (7, 180)}


class Amount(Struct, frozen=True, kw_only=True):
    value: float
    currency: Literal["usd"] = "usd"


class CostsResult(Struct, frozen=True, kw_only=True):
    object: Literal["organization.costs.result"] = "organization.costs.result"
    amount: Amount
    line_item: str | None = None
    quantity: float | None = None
    quantity_unit: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    api_key_id: str | None = None
    api_source: str | None = None


class CostsBucket(Struct, frozen=True, kw_only=True):
    object: Literal["bucket"] = "bucket"
    start_time: int
    end_time: int
    results: list[CostsResult]


class CostsPage(Struct, frozen=True, kw_only=True):
    object: Literal["page"] = "page"
    data: list[CostsBucket]
    has_more: bool
    next_page: str | None


async def _costs(exchange: Exchange) -> None:
    exchange.principal("admin")
    fields = exchange.query(QUERY)
    groups = read_group_by(fields, (*GROUPS, "api_source"))
    ours = [GROUPS[group] for group in groups if group in GROUPS]
    spans = read_spans(fields, exchange.services.clock.now(), len(ours), LIMITS)
    rows = await exchange.services.accounts.usage(question(spans, ours, read_filters(fields, FILTERS)))
    by_item = "line_item" in groups

    def result(row: UsageRow) -> CostsResult:
        return CostsResult(
            amount=Amount(value=(row.cost_nanos or 0) / NANOS),
            line_item=row.group["model"] if by_item else None,
            quantity=float(row.input + row.output) if by_item else None,
            quantity_unit="tokens" if by_item else None,
            api_source="unlabeled" if "api_source" in groups else None,
            **named(row, [group for group in groups if group in FIELDS]),
        )

    data = [CostsBucket(start_time=a, end_time=b, results=r) for (a, b), r in page(spans, rows, result)]
    more = next_page(spans, rows)
    await exchange.send_json(CostsPage(data=data, has_more=more is not None, next_page=more))


ROUTES = (
    Route(
        method="GET",
        path="/v1/organization/costs",
        endpoint=_costs,
        scope="admin",
        summary="Money by day, as OpenAI's API shows it.",
        gives=CostsPage,
        query=QUERY,
    ),
)
