"""`spend_limit` of the organization and of projects: the hard limit of a month's dollars, as the policy has it."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from headgate.api.application import Endpoint, Route
from headgate.api.exchange import Exchange
from headgate.api.routes.organization import admin, read_body
from headgate.core.errors import NotFound
from headgate.core.policy import MONEY_MAX, Policy
from headgate.ledger.accounts.questions import Filter, UsageQuery
from headgate.tenancy import edits
from headgate.tenancy.policies import Owner

ORGANIZATION = "/v1/organization"
PROJECT = "/v1/organization/projects/{id}"
Cents = Annotated[int, Meta(ge=0, le=MONEY_MAX * 100)]


class Enforcement(Struct, frozen=True, kw_only=True):
    """Whether the ledger's sum of this month has reached the limit, a raise in force included."""

    status: Literal["inactive", "enforcing"]


class SpendLimit(Struct, frozen=True, kw_only=True):
    """In cents a month of UTC."""

    object: Literal["organization.spend_limit", "project.spend_limit"]
    currency: Literal["USD"] = "USD"
    interval: Literal["month"] = "month"
    threshold_amount: int
    enforcement: Enforcement


class SpendLimitChange(Struct, frozen=True, forbid_unknown_fields=True):
    threshold_amount: Cents
    currency: Literal["USD"] = "USD"
    interval: Literal["month"] = "month"


class DeletedSpendLimit(Struct, frozen=True, kw_only=True):
    object: Literal["organization.spend_limit.deleted", "project.spend_limit.deleted"]
    deleted: bool = True


_change = msgspec.json.Decoder(SpendLimitChange)


def owner_of(exchange: Exchange) -> Owner:
    """The project that the path names, else the organization."""
    return Owner("project", exchange.path_ids[0]) if exchange.route.startswith(PROJECT) else Owner("organization")


async def _shown(exchange: Exchange, owner: Owner, policy: Policy) -> SpendLimit:
    cents, budget = edits.spend_limit(policy), edits.budget_of(policy, edits.MONTH)
    if cents is None or budget is None:
        raise NotFound("There is no monthly spend limit here.", code="spend_limit_not_found")
    now = exchange.services.clock.now()
    reached = await _spent(exchange, owner, now) >= budget.limit(now)
    return SpendLimit(
        object="project.spend_limit" if owner.level == "project" else "organization.spend_limit",
        threshold_amount=cents,
        enforcement=Enforcement(status="enforcing" if reached else "inactive"),
    )


async def _spent(exchange: Exchange, owner: Owner, now: float) -> int:
    """Nanodollars of this month, up to the last receipt."""
    month = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    of = (Filter("tenant", (owner.id,)),) if owner.level == "project" else ()
    rows = await exchange.services.accounts.usage(UsageQuery(start=month.timestamp(), end=now + 1.0, filters=of))
    return sum(row.cost_nanos or 0 for row in rows)


async def _get(exchange: Exchange) -> None:
    admin(exchange)
    owner = owner_of(exchange)
    await exchange.send_json(await _shown(exchange, owner, await exchange.services.tenancy.policies.get(owner)))


async def _set(exchange: Exchange) -> None:
    by = admin(exchange)
    owner = owner_of(exchange)
    cents = (await read_body(exchange, _change)).threshold_amount
    policy = await exchange.services.tenancy.policies.edit(
        owner, "spend_limit.updated", lambda policy: edits.with_spend_limit(policy, cents), by
    )
    await exchange.send_json(await _shown(exchange, owner, policy))


async def _delete(exchange: Exchange) -> None:
    by = admin(exchange)
    owner = owner_of(exchange)
    await exchange.services.tenancy.policies.edit(owner, "spend_limit.deleted", edits.without_spend_limit, by)
    await exchange.send_json(
        DeletedSpendLimit(
            object="project.spend_limit.deleted" if owner.level == "project" else "organization.spend_limit.deleted"
        )
    )


def _route(method: str, base: str, endpoint: Endpoint, summary: str) -> Route:
    takes = SpendLimitChange if method == "POST" else None
    gives = DeletedSpendLimit if method == "DELETE" else SpendLimit
    return Route(
        method=method, path=base + "/spend_limit", endpoint=endpoint, scope="admin", summary=summary,
        takes=takes, gives=gives,
    )  # fmt: skip


ROUTES = tuple(
    _route(method, base, endpoint, summary)
    for base in (ORGANIZATION, PROJECT)
    for method, endpoint, summary in (
        ("GET", _get, "The most that may be spent in a month."),
        ("POST", _set, "Set the most that may be spent in a month."),
        ("DELETE", _delete, "Lift the monthly spend limit."),
    )
)
